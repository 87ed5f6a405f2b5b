"""`beamfleet device pin|unpin`: devices that rollouts leave alone."""

from typing import Annotated
from urllib.parse import quote

import typer

from beamfleet_server.cli.identities import app
from beamfleet_server.cli.options import DeviceId, Printed, examples
from beamfleet_server.cli.output import Format
from beamfleet_server.cli.session import Session

__all__ = ("app",)


@app.command("pin", epilog=examples("beamfleet device pin gw-1 --reason 'on the test bench'"))
def pin(
    ctx: typer.Context,
    device: DeviceId,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is shown wherever it is left out.")],
    output: Printed = Format.TABLE,
) -> None:
    """Keep a device on what it runs: rollouts show it as skipped, and offer it nothing."""
    session = Session.of(ctx, output)
    pinned = session.client.post_again(f"/devices/{quote(device, safe='')}/pin", {"reason": reason})
    session.output.done(pinned, f"{device} is pinned: {reason}", "id", f"beamfleet device unpin {device}")


@app.command("unpin", epilog=examples("beamfleet device unpin gw-1"))
def unpin(ctx: typer.Context, device: DeviceId, output: Printed = Format.TABLE) -> None:
    """Let rollouts reach a device again, from the next one on."""
    session = Session.of(ctx, output)
    free = session.client.delete(f"/devices/{quote(device, safe='')}/pin")
    session.output.done(free, f"{device} is not pinned", "id")
