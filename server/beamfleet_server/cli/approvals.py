"""`beamfleet approval`: rollouts so large that a second person has to agree, where the server asks for that."""

from typing import Annotated

import typer

from beamfleet_server.cli.options import Printed, examples, group
from beamfleet_server.cli.output import Column, Format
from beamfleet_server.cli.session import Session
from beamfleet_server.cli.starting import announce

app = group("Agree to large rollouts of other operators, or not.")

ApprovalId = Annotated[int, typer.Argument(metavar="NUMBER", help="As `beamfleet approval list` shows it.")]


@app.command("list", epilog=examples("beamfleet approval list", "beamfleet approval list -o json"))
def list_approvals(ctx: typer.Context, output: Printed = Format.TABLE) -> None:
    """List rollouts that wait for a second operator, or did."""
    session = Session.of(ctx, output)
    waiting = list(session.client.pages("/approvals"))
    session.output.items(waiting, _COLUMNS, "id", "nothing waits for a second operator")


@app.command("accept", epilog=examples("beamfleet approval accept 3"))
def accept(ctx: typer.Context, approval: ApprovalId, output: Printed = Format.TABLE) -> None:
    """Start a rollout that another operator asked for.

    It counts the devices that match now. Nobody approves what they asked for themselves.
    """
    session = Session.of(ctx, output)
    announce(session, session.client.post(f"/approvals/{approval}/approve", {}))


@app.command("reject", epilog=examples("beamfleet approval reject 3"))
def reject(ctx: typer.Context, approval: ApprovalId, output: Printed = Format.TABLE) -> None:
    """Refuse a rollout that another operator asked for, or take back your own."""
    session = Session.of(ctx, output)
    rejected = session.client.post(f"/approvals/{approval}/reject", {})
    session.output.done(rejected, f"{approval} is rejected", "id")


_COLUMNS = (
    Column("NUMBER", lambda approval: approval["id"], right=True),
    Column("RELEASE", lambda approval: f"{approval['product']} {approval['version']}"),
    Column("DEVICES", lambda approval: approval["selector"] or "all"),
    Column("COUNT", lambda approval: approval["devices"], right=True),
    Column("ASKED BY", lambda approval: approval["asked_by"]),
    Column("STATE", lambda approval: approval["state"]),
    Column("DECIDED BY", lambda approval: approval["decided_by"]),
    Column("ROLLOUT", lambda approval: approval["rollout"]),
)
