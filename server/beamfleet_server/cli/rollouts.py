"""`beamfleet rollout`: look at rollouts. How they stand, whom they reach, what they change, which there were."""

from collections.abc import Sequence
from typing import Annotated

import typer

from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.following import conclude, follow_to_the_end
from beamfleet_server.cli.options import AnyRollout, Printed, RolloutId, Timeout, examples, group
from beamfleet_server.cli.output import Column, Format, Item
from beamfleet_server.cli.progress import describe, show_counts, show_reason, standing
from beamfleet_server.cli.quantities import parse_duration, show_bytes, show_duration, show_time
from beamfleet_server.cli.session import Session

app = group("Bring a published release to devices, and watch.")

SHOWN = 50
"""Devices that `status` shows to people; it gives programs what the server gives."""
States = Annotated[
    list[str] | None, typer.Option("--state", metavar="STATE", help="Only in this state; repeat, or part by commas.")
]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end; the exit code says how it ended.")]
_STYLES = {
    "completed": "green",
    "halted": "red",
    "aborted": "yellow",
    "expired": "yellow",
    "paused": "yellow",
    "committed": "green",
    "reverted": "red",
    "failed": "red",
}


def watch(session: Session, number: int, timeout_s: float, extra: Item | None = None) -> None:
    """Follow a rollout, print how it ended (with `extra` beside it for scripts) and exit by its outcome."""
    rollout, code = follow_to_the_end(session.client, session.output, number, timeout_s)
    conclude(session.output, {**rollout, **(extra or {})}, code)
    raise typer.Exit(code)


@app.command("status", epilog=examples("beamfleet rollout status", "beamfleet rollout status 7 --watch --timeout 15m"))
def status(
    ctx: typer.Context,
    rollout: AnyRollout = None,
    follow: Watch = False,
    timeout: Timeout = "",
    output: Printed = Format.TABLE,
) -> None:
    """Show how a rollout stands: phases, what went wrong, devices.

    With --watch the exit code is 0 completed, 3 halted, 4 aborted, 5 expired or not ended in time. A pause, a gate and
    a soak are waited out.
    """
    session = Session.of(ctx, output)
    timeout_s = parse_duration(timeout) if timeout else 0
    number = newest(session) if rollout is None else rollout
    if follow:
        watch(session, number, timeout_s)
    shown = session.client.get(f"/rollouts/{number}", {"devices": SHOWN} if session.output.for_people else None)
    session.output.item(shown, _facts(shown), "id")
    if not session.output.for_people:
        return
    _part(session, shown["phases"], _PHASES, "name")
    _part(session, shown["devices"], _DEVICES, "id")
    if (more := sum(shown["counts"].values()) - len(shown["devices"])) > 0:
        session.output.note(f"and {more} more: beamfleet rollout devices {number}")


@app.command(
    "devices",
    epilog=examples(
        "beamfleet rollout devices 7 --state reverted,failed",
        "beamfleet rollout devices 7 --phase canary -o name",
    ),
)
def devices(
    ctx: typer.Context,
    rollout: RolloutId,
    states: States = None,
    phase: Annotated[str, typer.Option("--phase", metavar="NAME", help="Only those of this phase.")] = "",
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="How many, by id.")] = 100_000,
    output: Printed = Format.TABLE,
) -> None:
    """List the devices of a rollout, with the state of each one, its reason and what it ran before."""
    session = Session.of(ctx, output)
    query = {"state": ",".join(_words(states)), "phase": phase}
    found = list(session.client.pages(f"/rollouts/{rollout}/devices", query, limit=limit))
    session.output.items(found, _DEVICES, "id", "no device of it is like that")


@app.command("diff", epilog=examples("beamfleet rollout diff 7", "beamfleet rollout diff 7 -o json"))
def diff(ctx: typer.Context, rollout: RolloutId, output: Printed = Format.TABLE) -> None:
    """Show what a rollout changes: from which version to which, on how many devices, how many bytes for each."""
    session = Session.of(ctx, output)
    changes = session.client.get(f"/rollouts/{rollout}/changes")["changes"]
    session.output.items(changes, _CHANGES, "manifest", "it changes nothing yet: no device of it has a bundle")


@app.command(
    "history",
    epilog=examples(
        "beamfleet rollout history",
        "beamfleet rollout history --product sensor-gateway --state halted",
        "beamfleet rollout history --limit 5 -o json",
    ),
)
def history(
    ctx: typer.Context,
    product: Annotated[str, typer.Option("--product", metavar="PRODUCT", help="Only of this product.")] = "",
    version: Annotated[str, typer.Option("--version", metavar="VERSION", help="Only of this version.")] = "",
    states: States = None,
    kind: Annotated[str, typer.Option("--kind", metavar="KIND", help="Only `update` or `undo`.")] = "",
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="How many, newest first.")] = 50,
    output: Printed = Format.TABLE,
) -> None:
    """List rollouts, newest first."""
    session = Session.of(ctx, output)
    query = {"product": product, "version": version, "state": ",".join(_words(states)), "kind": kind}
    rollouts = list(session.client.pages("/rollouts", query, limit=limit))
    asked = any(query.values())
    empty = "no rollout is like that" if asked else "no rollout yet; `beamfleet push TARBALL -l key=value` starts one"
    session.output.items(rollouts, _ROLLOUTS, "id", empty)


def newest(session: Session) -> int:
    """The number of the newest rollout; `rollout.none` before the first."""
    for rollout in session.client.pages("/rollouts", limit=1):
        return int(rollout["id"])
    raise CommandError("rollout.none", "there is no rollout yet", "beamfleet push TARBALL -l key=value starts one")


def _part(session: Session, items: Sequence[Item], columns: Sequence[Column], name: str) -> None:
    if items:
        session.output.blank()
        session.output.items(items, columns, name, "")


def _words(texts: Sequence[str] | None) -> list[str]:
    return [word.strip() for text in texts or () for word in text.split(",") if word.strip()]


def _facts(rollout: Item) -> list[tuple[str, object]]:
    state = rollout["state"]
    facts: list[tuple[str, object]] = [
        ("rollout", f"{rollout['id']}, undoes {rollout['of']}" if rollout["of"] else rollout["id"]),
        ("release", _release(rollout)),
        ("devices", rollout["selector"] or "all"),
        ("state", f"running, {rollout['phase']}" if state == "running" else state),
        ("reason", rollout["reason"]),
        ("waits", standing(dict(rollout))),
        ("priority", rollout["priority"] or ""),
        ("by", rollout["by"]),
        ("note", rollout["note"]),
        ("created", show_time(rollout["created"])),
        ("expires", show_time(rollout["expires"])),
        ("finished", show_time(rollout["finished"])),
        ("counts", show_counts(rollout["counts"])),
    ]
    told = [("because" if number == 0 else "", show_reason(each)) for number, each in enumerate(rollout["reasons"])]
    return [(label, value) for label, value in [*facts, *told] if value not in (None, "") or label == "reason"]


def _release(rollout: Item) -> str:
    return f"{rollout['product']} {rollout['version']}"


def _phase_rules(phase: Item) -> str:
    soak = f"soak {show_duration(phase['soak_s'])}" if phase["soak_s"] else ""
    return ", ".join(filter(None, (soak, "gate" if phase["gate"] else "")))


_ROLLOUTS = (
    Column("ROLLOUT", lambda rollout: rollout["id"], right=True),
    Column("RELEASE", lambda rollout: _release(rollout) + (f" (undo {rollout['of']})" if rollout["of"] else "")),
    Column("DEVICES", lambda rollout: rollout["selector"] or "all"),
    Column("STATE", lambda rollout: rollout["state"], lambda rollout: _STYLES.get(rollout["state"], "")),
    Column("COUNTS", lambda rollout: show_counts(rollout["counts"])),
    Column("REASON", lambda rollout: rollout["reason"]),
    Column("BY", lambda rollout: rollout["by"]),
    Column("CREATED", lambda rollout: show_time(rollout["created"])),
)
_PHASES = (
    Column("PHASE", lambda phase: phase["name"]),
    Column("STATE", lambda phase: phase["state"]),
    Column("DEVICES", lambda phase: phase["size"], right=True),
    Column("FAILURES", lambda phase: f"at most {phase['tolerated']}"),
    Column("THEN", _phase_rules),
    Column("COUNTS", lambda phase: show_counts(phase["counts"])),
)
_DEVICES = (
    Column("DEVICE", lambda device: device["id"]),
    Column("PHASE", lambda device: device["phase"]),
    Column("STATE", describe, lambda device: _STYLES.get(device["state"], "")),
    Column("BEFORE", lambda device: device["before"]),
    Column("TRIES", lambda device: device["tries"], right=True),
    Column("UPDATED", lambda device: show_time(device["updated"])),
)
_CHANGES = (
    Column("TARGET", lambda change: change["target"]),
    Column("FROM", lambda change: change["before"]),
    Column("TO", lambda change: change["version"]),
    Column("DEVICES", lambda change: change["devices"], right=True),
    Column("BUNDLE", lambda change: show_bytes(change["bytes"]), right=True),
    Column("FOR EXAMPLE", lambda change: ", ".join(change["examples"])),
)
