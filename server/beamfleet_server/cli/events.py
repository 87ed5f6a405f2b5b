"""`beamfleet events`: what happened in the fleet, newest last, or live."""

from typing import Annotated

import typer

from beamfleet_server.cli import completion
from beamfleet_server.cli.following import Outage
from beamfleet_server.cli.options import Printed, examples
from beamfleet_server.cli.output import Column, Format, Item, cell
from beamfleet_server.cli.quantities import show_time
from beamfleet_server.cli.session import Session
from beamfleet_server.cli.streaming import follow_events


def events(
    ctx: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as things happen, until Ctrl-C.")] = False,
    device: Annotated[
        str, typer.Option("--device", metavar="DEVICE", help="Only this one.", autocompletion=completion.devices)
    ] = "",
    rollout: Annotated[
        int | None,
        typer.Option("--rollout", metavar="ROLLOUT", help="Only of this one.", autocompletion=completion.rollouts),
    ] = None,
    kinds: Annotated[
        list[str] | None, typer.Option("--kind", metavar="KIND", help="Only this kind, as rollout; repeat for more.")
    ] = None,
    causes: Annotated[
        list[str] | None, typer.Option("--cause", metavar="CAUSE", help="Only this cause, as halted; repeat for more.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1000, help="How many of the newest.")] = 50,
    output: Printed = Format.TABLE,
) -> None:
    """Show what happened in the fleet, or follow it live.

    Restarts with their causes, updates, enrolments, rollouts. With --follow, -o json prints one object a line.
    """
    session = Session.of(ctx, output)
    wanted = {"device": device, "rollout": rollout, "kind": kinds or (), "cause": causes or ()}
    newest = session.client.get("/events", {**wanted, "limit": limit, "newest": "true"})["items"]
    if not follow:
        session.output.items(newest, _COLUMNS, "id", "nothing has happened yet")
        return
    for event in newest:
        session.output.line(event, sentence(event), "id")
    after = newest[-1]["id"] if newest else 0
    for event in follow_events(session.client, wanted, after, Outage(session.output.note)):
        session.output.line(event, sentence(event), "id")


def sentence(event: Item) -> str:
    """An event as one line: time, device, kind, cause, rollout, detail."""
    words = [show_time(event["time"]), cell(event["device"]), event["kind"], event["cause"]]
    if event.get("rollout"):
        words.append(f"rollout {event['rollout']}")
    return "  ".join(str(word) for word in [*words, event["detail"]] if word)


_COLUMNS = (
    Column("TIME", lambda event: show_time(event["time"])),
    Column("DEVICE", lambda event: event["device"]),
    Column("EVENT", lambda event: event["kind"]),
    Column("CAUSE", lambda event: event["cause"]),
    Column("ROLLOUT", lambda event: event["rollout"]),
    Column("DETAIL", lambda event: event["detail"]),
)

EXAMPLES = examples(
    "beamfleet events",
    "beamfleet events --follow --device gw-1",
    "beamfleet events --follow --rollout 12 -o json",
)
