"""`beamfleet device replace|decommission`: devices that leave, with another one in their place or without."""

from typing import Annotated
from urllib.parse import quote

import typer

from beamfleet_server.cli import completion
from beamfleet_server.cli.consent import ask
from beamfleet_server.cli.options import DeviceId, Printed, device_id, examples
from beamfleet_server.cli.output import Format, Item, harmless
from beamfleet_server.cli.pins import app
from beamfleet_server.cli.session import Session

__all__ = ("app",)

Old = Annotated[
    str,
    typer.Argument(
        metavar="OLD", help="The device that leaves.", autocompletion=completion.devices, callback=device_id
    ),
]
New = Annotated[
    str,
    typer.Argument(
        metavar="NEW",
        help="The id of the board in its place: enrolled, waiting, or not there yet.",
        autocompletion=completion.devices,
        callback=device_id,
    ),
]
Sure = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.command(
    "replace",
    epilog=examples("beamfleet device replace gw-1 gw-17", "beamfleet device replace gw-1 gw-17 --yes -o json"),
)
def replace(ctx: typer.Context, old: Old, new: New, sure: Sure = False, output: Printed = Format.TABLE) -> None:
    """Let a new board take the place of a device: its labels, its pin, and where it stands in a rollout.

    The old one is revoked at once and shown as replaced; what is known of it stays. A new one that is not there yet
    gets all that when it enrols. Safe to repeat.
    """
    session = Session.of(ctx, output)
    if not sure:
        ask(session, f"shut out {harmless(old)}, and let {harmless(new)} replace it?")
    replaced = session.client.post_again(f"/devices/{quote(old, safe='')}/replace", {"by": new})
    session.output.done(replaced, _sentence(replaced), "by", _next(replaced))


@app.command("decommission", epilog=examples("beamfleet device decommission gw-1 --yes"))
def decommission(ctx: typer.Context, device: DeviceId, sure: Sure = False, output: Printed = Format.TABLE) -> None:
    """Take a device out of service: revoked, its tokens ended, in no selector, rollout or alarm any more.

    What is known of it stays, and `device list --all` shows it; `device delete` forgets it. It comes back with a new
    token only (`beamfleet token create DEVICE --replace`).
    """
    session = Session.of(ctx, output)
    if not sure:
        ask(session, f"take {harmless(device)} out of service?")
    ended = session.client.post_again(f"/devices/{quote(device, safe='')}/decommission", {})
    then = "on the device, `beamfleet-agent decommission` wipes identity and secrets"
    session.output.done(ended, f"{device} is decommissioned", "id", then)


def _sentence(replaced: Item) -> str:
    if replaced["handed_over"]:
        return f"{replaced['by']} has the place of {replaced['device']}, which is shut out"
    return f"{replaced['device']} is shut out; {replaced['by']} gets its place when it enrols"


def _next(replaced: Item) -> str:
    if replaced["handed_over"]:
        return f"beamfleet device show {replaced['by']}"
    if replaced["waits"]:
        return f"it waits already: beamfleet device accept {replaced['by']}"
    return f"beamfleet flash --id {replaced['by']} ..."
