"""Following events as the server tells them (server-sent events), over its restarts, without a gap and without doubles.

The last id that was heard is where the next connection goes on. This module never prints."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from beamfleet_server.cli.client import Client
from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.following import PATIENCE_S, Outage
from beamfleet_server.cli.output import Item

PAUSE_S = 0.5
"""Before a stream that ended is asked for again."""


def follow_events(
    client: Client,
    query: Mapping[str, object],
    after: int,
    outage: Outage,
    *,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[Item]:
    """Events with an id above `after` that fit `query`, for ever. Errors as in `Client.get`, and `server.malformed`."""
    while True:
        asked = {**query, "after": after}
        lines = client.lines("/events/stream", asked, patience_s=PATIENCE_S, on_trouble=outage.begin)
        for number, event in read_stream(lines):
            outage.end()
            after = number  # lower than what was asked for, if the server was restored from a backup
            if event is not None:
                yield event
        pause(PAUSE_S)


def read_stream(lines: Iterable[str]) -> Iterator[tuple[int, Item | None]]:
    """Each block as (id, event); the event is None for one that only says how far the stream is. Comments and blocks
    that are not whole are left out."""
    number, data = -1, ""
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "id" if value.isascii() and value.isdigit() and len(value) < 20:
                number = int(value)
            case "data":
                data += value
            case "" if not line and number >= 0:
                yield number, _event(data)
                number, data = -1, ""


def _event(data: str) -> Item | None:
    if not data:
        return None
    try:
        event = json.loads(data)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise CommandError("server.malformed", "the stream of events is none", "is this the operators' address?")
    return event
