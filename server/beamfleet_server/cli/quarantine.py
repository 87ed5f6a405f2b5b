"""`beamfleet quarantine`: bundles that have halted a rollout. No rollout offers them until a person lifts it."""

from typing import Annotated

import typer

from beamfleet_server.cli import completion
from beamfleet_server.cli.options import Printed, examples, group
from beamfleet_server.cli.output import Column, Format
from beamfleet_server.cli.quantities import show_time
from beamfleet_server.cli.session import Session

app = group("See what no device is offered any more, and why.")

ID_LENGTH = 12
"""Digits of a manifest's hash that people are shown."""


@app.command("list", epilog=examples("beamfleet quarantine list", "beamfleet quarantine list --all -o json"))
def list_quarantine(
    ctx: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Also what was lifted.")] = False,
    output: Printed = Format.TABLE,
) -> None:
    """List bundles that crossed a rollout's threshold."""
    session = Session.of(ctx, output)
    held = list(session.client.pages("/quarantine", {"all": "true"} if everything else {}))
    session.output.items(held, _COLUMNS, "manifest", "nothing is in quarantine")


@app.command(
    "lift",
    epilog=examples("beamfleet quarantine lift sensor-gateway 1.2.0", "beamfleet quarantine lift 0f3a...9c"),
)
def lift(
    ctx: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="PRODUCT|MANIFEST",
            help="A product's name, or one bundle's manifest.",
            autocompletion=completion.products,
        ),
    ],
    version: Annotated[str | None, typer.Argument(metavar="[VERSION]", help="With a product: all its bundles.")] = None,
    output: Printed = Format.TABLE,
) -> None:
    """Let rollouts offer a release again. What a device did with it before does not change.

    Mending the release under a new version is the usual way; this one is for when something else was to blame.
    """
    session = Session.of(ctx, output)
    body = {"manifest": what} if version is None else {"product": what, "version": version}
    lifted = session.client.post_again("/quarantine/lift", body)
    count = len(lifted["lifted"])
    session.output.done(
        {"id": what, **lifted},
        f"{count} {'bundle is' if count == 1 else 'bundles are'} lifted out of quarantine",
        "id",
        "beamfleet rollout retry ROLLOUT, or beamfleet rollout start",
    )


_COLUMNS = (
    Column("MANIFEST", lambda held: held["manifest"][:ID_LENGTH]),
    Column("RELEASE", lambda held: f"{held['product']} {held['version']}"),
    Column("ROLLOUT", lambda held: held["rollout"], right=True),
    Column("REASON", lambda held: held["reason"]),
    Column("EVIDENCE", lambda held: held["evidence"]),
    Column("SINCE", lambda held: show_time(held["time"])),
    Column("LIFTED", lambda held: f"{show_time(held['lifted'])} by {held['lifted_by']}" if held["lifted"] else ""),
)
