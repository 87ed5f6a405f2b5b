"""`beamfleet authority`: the certificate authorities of the fleet, and how a new one takes over."""

from typing import Annotated
from urllib.parse import quote

import typer

from beamfleet_server.cli.options import Printed, examples, group
from beamfleet_server.cli.output import Column, Format
from beamfleet_server.cli.quantities import show_time
from beamfleet_server.cli.session import Session

app = group("Change the certificate authority of the fleet, without a visit to any device.")

Id = Annotated[str, typer.Argument(metavar="ID", help="The id of an authority, as in the list.")]


@app.command("list", epilog=examples("beamfleet authority list", "beamfleet authority list -o json"))
def list_authorities(ctx: typer.Context, output: Printed = Format.TABLE) -> None:
    """List authorities: which one signs, which ones are trusted, and how many devices use each.

    This context trusts from now on what the server trusts.
    """
    session = Session.of(ctx, output)
    _trust(session)
    session.output.items(list(session.client.pages("/authorities")), _COLUMNS, "id", "no authority yet")


@app.command("new", epilog=examples("beamfleet authority new"))
def new(ctx: typer.Context, output: Printed = Format.TABLE) -> None:
    """Make a further authority: the server trusts it from now on, and it signs nothing yet.

    Next, tell the devices of it, signed by the targets role, and wait until they have looked; then activate it.
    """
    session = Session.of(ctx, output)
    made = session.client.post("/authorities", {})
    _trust(session)
    then = f"beamfleet keys plan whereabouts, so that devices trust it; then beamfleet authority activate {made['id']}"
    session.output.done(made, f"authority {made['id']} is trusted, and signs nothing yet", "id", then)


@app.command("activate", epilog=examples("beamfleet authority activate 3f9a1c20d4e7"))
def activate(ctx: typer.Context, authority: Id, output: Printed = Format.TABLE) -> None:
    """Let an authority sign from now on: certificates of devices, and the server's own.

    A device that was never told of it finds its way by signed metadata. Devices renew by themselves.
    """
    session = Session.of(ctx, output)
    _trust(session)
    active = session.client.post(f"/authorities/{quote(authority, safe='')}/activate", {})
    _trust(session)
    then = "beamfleet authority list shows how many devices use the old one; retire it when there are none"
    session.output.done(active, f"authority {active['id']} signs from now on", "id", then)


@app.command(
    "retire",
    epilog=examples("beamfleet authority retire 8b02c4f1a9d3", "beamfleet authority retire 8b02c4f1a9d3 --force"),
)
def retire(
    ctx: typer.Context,
    authority: Id,
    force: Annotated[
        bool, typer.Option("--force", help="Also while devices use it; they can only renew from then on.")
    ] = False,
    output: Printed = Format.TABLE,
) -> None:
    """Trust an authority no longer. Its certificates may still be exchanged for new ones, and do nothing else.

    Its key is removed from the server. The broker is started again; sessions of devices come back by themselves.
    """
    session = Session.of(ctx, output)
    retired = session.client.post(f"/authorities/{quote(authority, safe='')}/retire", {"force": force})
    _trust(session)
    session.output.done(retired, f"authority {retired['id']} is retired", "id")


def _trust(session: Session) -> None:
    """Trust what the server trusts, told over a connection that was checked against what was trusted before."""
    session.contexts.trust(session.context.name, session.client.get("/server")["fleet_ca"].encode())


_COLUMNS = (
    Column("AUTHORITY", lambda authority: authority["id"]),
    Column(
        "STATE",
        lambda authority: authority["state"],
        lambda authority: {"active": "green", "retired": "red"}.get(authority["state"], ""),
    ),
    Column("DEVICES", lambda authority: authority["devices"], right=True),
    Column("CREATED", lambda authority: show_time(authority["created"])),
    Column("UNTIL", lambda authority: show_time(authority["not_after"])),
)
