"""`beamfleet health`: how the server is, how many devices are well, and what ails those that are not."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from beamfleet_server.cli import vitals
from beamfleet_server.cli.errors import ERROR
from beamfleet_server.cli.labels import selector
from beamfleet_server.cli.options import Printed, Selector, Verdicts, examples
from beamfleet_server.cli.output import Column, Format, Item
from beamfleet_server.cli.quantities import show_since, show_time, show_times
from beamfleet_server.cli.session import Session

SHOWN = 50
EXAMPLES = examples(
    "beamfleet health",
    "beamfleet health -l site=berlin --verdict failing,degraded",
    "beamfleet health --check || echo 'a device is failing'",
    "beamfleet health -o json",
)


def health(
    ctx: typer.Context,
    labels: Selector = None,
    verdicts: Verdicts = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=0, help="How many devices are named; 0 for all.")
    ] = SHOWN,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if a device is failing.")] = False,
    output: Printed = Format.TABLE,
) -> None:
    """Show how the server is, how many devices are well, and what ails those that are not, the worst first."""
    session = Session.of(ctx, output)
    chosen = selector(labels or ())
    wanted = vitals.parse_verdicts(verdicts or ()) or list(vitals.UNWELL)
    server = session.client.get("/health")
    query = {"selector": chosen, "verdict": ",".join(wanted), "sort": "verdict"}
    counts, unwell = _devices(session, query, limit)
    found = {"server": session.client.server, **server, "counts": counts, "unwell": unwell}
    session.output.item(found, _facts(session.client.server, server, chosen, counts), "status")
    if session.output.for_people and unwell:
        session.output.blank()
        session.output.items(unwell, _columns(datetime.now(UTC)), "id", "")
        if (left := sum(counts.get(verdict, 0) for verdict in wanted) - len(unwell)) > 0:
            session.output.note(f"and {left} more: --limit 0 shows all, --verdict and -l choose")
    if check and counts.get("failing"):
        raise typer.Exit(ERROR)


def _devices(session: Session, query: dict[str, Any], limit: int) -> tuple[dict[str, int], Sequence[Item]]:
    """The counts by verdict, and at most `limit` (0: all) of the devices."""
    counts: dict[str, int] = {}
    items: list[Item] = []
    for page in session.client.answers("/health/devices", query, limit):
        counts = counts or page["counts"]
        items += page["items"]
    return counts, items


def _facts(address: str, server: Item, chosen: str, counts: dict[str, int]) -> list[tuple[str, object]]:
    ending = server["expiries"]
    alarms = [
        ("alarm", f"{alarm['name']} since {show_time(alarm['since'])}: {show_times(alarm['detail'])}")
        for alarm in server["alarms"]
    ]
    return [
        ("server", f"{server['status']} ({address})"),
        ("broker", server["broker"]),
        ("devices", f"{server['online']} of {server['devices']} online"),
        ("runs out", f"{ending['due']} due, {ending['expired']} expired: see `beamfleet keys status`"),
        *alarms,
        (f"health of {chosen}" if chosen else "health", vitals.show_verdicts(counts)),
    ]


def _columns(now: datetime) -> tuple[Column, ...]:
    return (
        Column("DEVICE", lambda device: device["id"]),
        Column("HEALTH", lambda device: device["verdict"], lambda device: vitals.style(device["verdict"])),
        Column("RELEASE", lambda device: f"{device['product']} {device['version']}".strip()),
        Column("SEEN", lambda device: show_since(device["last_seen"], now)),
        Column("WHY", lambda device: vitals.show_reasons(device["reasons"])),
    )
