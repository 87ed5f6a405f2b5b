"""`beamfleet operator`: who may use the server, by which role, until when."""

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from beamfleet_server.cli.destinations import check_new, write_secret
from beamfleet_server.cli.options import Printed, examples, group
from beamfleet_server.cli.output import Column, Format
from beamfleet_server.cli.quantities import parse_life, show_time
from beamfleet_server.cli.session import Session

app = group("Say who may use the server.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The operator's name.")]


@app.command(
    "create",
    epilog=examples(
        "beamfleet operator create anna --role operator --out anna.token",
        "beamfleet operator create ci --role publisher --expires 30d --scope bundles.upload --scope metadata.newest",
    ),
)
def create(
    ctx: typer.Context,
    name: Name,
    role: Annotated[str, typer.Option("--role", metavar="ROLE", help="viewer, operator, publisher or admin.")],
    expires: Annotated[
        str, typer.Option("--expires", metavar="TIME", help="How long the token is good: 1h, 30d; a year at most.")
    ] = "90d",
    scopes: Annotated[
        list[str] | None,
        typer.Option("--scope", metavar="OPERATION", help="Only this operation of the role; repeat for more."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the token there (0600), not to stdout.")
    ] = None,
    output: Printed = Format.TABLE,
) -> None:
    """Make an operator and its token.

    Without --out the token is printed; it is shown this once only. No role can sign a bundle.
    """
    session = Session.of(ctx, output)
    wish = {"name": name, "role": role, "expires_in_s": parse_life(expires), "scopes": list(scopes or ())}
    if out:
        check_new(out)
    made = session.client.post("/operators", wish)
    if out:
        write_secret(out, made["token"])
        made = {**made, "token": None, "file": str(out)}
    session.output.done(made, str(made["token"] or f"token of {name} is in {out}"), "name")
    if session.output.for_people:
        session.output.note(f"{name} is {made['role']} until {show_time(made['expires'])}")


@app.command("list", epilog=examples("beamfleet operator list", "beamfleet operator list -o json"))
def list_operators(ctx: typer.Context, output: Printed = Format.TABLE) -> None:
    """List operators: their role, the limits of their token, and when it ends."""
    session = Session.of(ctx, output)
    session.output.items(list(session.client.pages("/operators")), _COLUMNS, "name", "no operator yet")


@app.command("revoke", epilog=examples("beamfleet operator revoke anna"))
def revoke(ctx: typer.Context, name: Name, output: Printed = Format.TABLE) -> None:
    """End an operator: the token and its web sessions stop at once."""
    session = Session.of(ctx, output)
    ended = session.client.delete(f"/operators/{quote(name, safe='')}")
    session.output.done(ended, f"{ended['name']} may not use the server any more", "name")


_COLUMNS = (
    Column("OPERATOR", lambda operator: operator["name"]),
    Column("ROLE", lambda operator: operator["role"]),
    Column("SCOPES", lambda operator: " ".join(operator["scopes"]) or "all of the role"),
    Column("EXPIRES", lambda operator: show_time(operator["expires"]) or "never"),
    Column("MADE BY", lambda operator: operator["created_by"] or "the first start"),
    Column("CREATED", lambda operator: show_time(operator["created"])),
)
