"""`beamfleet rollout`: start, look at, follow and abort rollouts."""

import secrets
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.following import conclude, follow_to_the_end
from beamfleet_server.cli.labels import selector
from beamfleet_server.cli.options import (
    AnyRollout,
    Printed,
    ProductName,
    RolloutId,
    Selector,
    Timeout,
    examples,
    group,
)
from beamfleet_server.cli.output import Column, Format, Item
from beamfleet_server.cli.progress import describe
from beamfleet_server.cli.quantities import parse_duration
from beamfleet_server.cli.session import Session

app = group("Bring a published release to devices, and watch.")

All = Annotated[bool, typer.Option("--all", help="Every device, when no label is given.")]
Canary = Annotated[
    int,
    typer.Option("--canary", metavar="N", min=1, help="How many devices prove the release before the rest gets it."),
]
Note = Annotated[str, typer.Option("--note", metavar="TEXT", help="A word for the history.")]
ApprovalId = Annotated[int, typer.Argument(metavar="NUMBER", help="As `beamfleet rollout approvals` shows it.")]
_STYLES = {"completed": "green", "halted": "red", "aborted": "yellow"}


def check_selector(labels: Sequence[str] | None, everyone: bool) -> str:
    """The selector, "" for every device. Neither labels nor --all, or both, is `usage.selector`."""
    chosen = selector(labels or ())
    if bool(chosen) == everyone:
        raise CommandError(
            "usage.selector",
            "labels and --all exclude each other" if everyone else "no devices are chosen",
            "-l key=value chooses devices by label, --all means every device of the fleet",
        )
    return chosen


def begin(session: Session, product: str, version: str, chosen: str, canary: int, note: str) -> dict[str, Any]:
    """Start a rollout, once, also if the answer is lost; the API's rollout object."""
    body = {
        "key": secrets.token_hex(16),
        "product": product,
        "version": version,
        "selector": chosen,
        "all": not chosen,
        "canary": canary,
        "note": note,
    }
    return session.client.post_again(
        "/rollouts", {key: value for key, value in body.items() if value not in ("", False)}
    )


def watch(session: Session, number: int, timeout_s: float, extra: Item | None = None) -> None:
    """Follow a rollout, print how it ended (with `extra` beside it for scripts) and exit by its outcome."""
    rollout, code = follow_to_the_end(session.client, session.output, number, timeout_s)
    conclude(session.output, {**rollout, **(extra or {})}, code)
    raise typer.Exit(code)


def announce(session: Session, rollout: Item) -> None:
    """Print that a rollout has begun, for whoever does not follow it."""
    number, release = rollout["id"], f"{rollout['product']} {rollout['version']}"
    session.output.done(
        rollout,
        f"rollout {number} of {release} started on {len(rollout['devices'])} devices",
        "id",
        f"beamfleet rollout status {number} --watch",
    )


@app.command(
    "start",
    epilog=examples(
        "beamfleet rollout start sensor-gateway 1.1.0 -l site=berlin",
        "beamfleet rollout start sensor-gateway 1.1.0 --all --canary 2 --watch",
    ),
)
def start(
    ctx: typer.Context,
    product: ProductName,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A published version.")],
    labels: Selector = None,
    everyone: All = False,
    canary: Canary = 1,
    note: Note = "",
    follow: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
    timeout: Timeout = "",
    output: Printed = Format.TABLE,
) -> None:
    """Start a rollout of a published release.

    The canaries get it first; when all of them have committed, everyone else does. One that reverts halts the rollout.
    """
    session = Session.of(ctx, output)
    chosen = check_selector(labels, everyone)
    timeout_s = parse_duration(timeout) if timeout else 0
    rollout = begin(session, product, version, chosen, canary, note)
    if follow:
        watch(session, rollout["id"], timeout_s)
    announce(session, rollout)


@app.command("status", epilog=examples("beamfleet rollout status", "beamfleet rollout status 7 --watch --timeout 15m"))
def status(
    ctx: typer.Context,
    rollout: AnyRollout = None,
    follow: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow it to its end; the exit code says how it ended.")
    ] = False,
    timeout: Timeout = "",
    output: Printed = Format.TABLE,
) -> None:
    """Show how a rollout stands, device by device.

    With --watch the exit code is 0 completed, 3 halted, 4 aborted, 5 not ended in time.
    """
    session = Session.of(ctx, output)
    timeout_s = parse_duration(timeout) if timeout else 0
    number = newest(session) if rollout is None else rollout
    if follow:
        watch(session, number, timeout_s)
    shown = session.client.get(f"/rollouts/{number}")
    session.output.item(shown, _facts(shown), "id")
    if session.output.for_people and shown["devices"]:
        session.output.blank()
        session.output.items(shown["devices"], _DEVICE_COLUMNS, "id", "")


@app.command("history", epilog=examples("beamfleet rollout history", "beamfleet rollout history --limit 5 -o json"))
def history(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="How many, newest first.")] = 50,
    output: Printed = Format.TABLE,
) -> None:
    """List rollouts, newest first."""
    session = Session.of(ctx, output)
    rollouts = list(session.client.pages("/rollouts", limit=limit))
    session.output.items(
        rollouts, _COLUMNS, "id", "no rollout yet; `beamfleet push TARBALL -l key=value` starts the first"
    )


@app.command("abort", epilog=examples("beamfleet rollout abort 7"))
def abort(ctx: typer.Context, rollout: RolloutId, output: Printed = Format.TABLE) -> None:
    """End a rollout: no more offers, and devices that have not swapped keep what they run.

    Devices that have committed stay on the new release.
    """
    session = Session.of(ctx, output)
    aborted = session.client.post(f"/rollouts/{rollout}/abort", {})
    session.output.done(
        aborted, f"rollout {rollout} is {aborted['state']}", "id", f"beamfleet rollout status {rollout}"
    )


@app.command("approvals", epilog=examples("beamfleet rollout approvals", "beamfleet rollout approvals -o json"))
def approvals(ctx: typer.Context, output: Printed = Format.TABLE) -> None:
    """List rollouts that wait for a second operator, or did."""
    session = Session.of(ctx, output)
    waiting = list(session.client.pages("/approvals"))
    session.output.items(waiting, _APPROVALS, "id", "nothing waits for a second operator")


@app.command("approve", epilog=examples("beamfleet rollout approve 3"))
def approve(ctx: typer.Context, approval: ApprovalId, output: Printed = Format.TABLE) -> None:
    """Start a rollout that another operator asked for.

    It counts the devices that match now. Nobody approves what they asked for themselves.
    """
    session = Session.of(ctx, output)
    announce(session, session.client.post(f"/approvals/{approval}/approve", {}))


@app.command("reject", epilog=examples("beamfleet rollout reject 3"))
def reject(ctx: typer.Context, approval: ApprovalId, output: Printed = Format.TABLE) -> None:
    """Refuse a rollout that another operator asked for, or take back your own."""
    session = Session.of(ctx, output)
    rejected = session.client.post(f"/approvals/{approval}/reject", {})
    session.output.done(rejected, f"{approval} is rejected", "id")


def newest(session: Session) -> int:
    """The number of the newest rollout; `rollout.none` before the first."""
    for rollout in session.client.pages("/rollouts", limit=1):
        return int(rollout["id"])
    raise CommandError("rollout.none", "there is no rollout yet", "beamfleet push TARBALL -l key=value starts one")


def _facts(rollout: Item) -> list[tuple[str, object]]:
    return [
        ("rollout", rollout["id"]),
        ("release", f"{rollout['product']} {rollout['version']}"),
        ("devices", rollout["selector"] or "all"),
        ("state", rollout["state"] if rollout["state"] != "running" else f"running, {rollout['phase']}"),
        ("reason", rollout["reason"]),
        ("created", rollout["created"]),
        ("finished", rollout["finished"]),
        ("counts", _counts(rollout)),
    ]


def _counts(rollout: Item) -> str:
    return ", ".join(f"{count} {state}" for state, count in rollout["counts"].items() if count)


_COLUMNS = (
    Column("ROLLOUT", lambda rollout: rollout["id"], right=True),
    Column("RELEASE", lambda rollout: f"{rollout['product']} {rollout['version']}"),
    Column("DEVICES", lambda rollout: rollout["selector"] or "all"),
    Column("STATE", lambda rollout: rollout["state"], lambda rollout: _STYLES.get(rollout["state"], "")),
    Column("COUNTS", _counts),
    Column("REASON", lambda rollout: rollout["reason"]),
    Column("CREATED", lambda rollout: rollout["created"]),
)
_APPROVALS = (
    Column("NUMBER", lambda approval: approval["id"], right=True),
    Column("RELEASE", lambda approval: f"{approval['product']} {approval['version']}"),
    Column("DEVICES", lambda approval: approval["selector"] or "all"),
    Column("COUNT", lambda approval: approval["devices"], right=True),
    Column("ASKED BY", lambda approval: approval["asked_by"]),
    Column("STATE", lambda approval: approval["state"]),
    Column("DECIDED BY", lambda approval: approval["decided_by"]),
    Column("ROLLOUT", lambda approval: approval["rollout"]),
)
_DEVICE_COLUMNS = (
    Column("DEVICE", lambda device: device["id"]),
    Column("CANARY", lambda device: device["canary"]),
    Column("STATE", describe),
    Column("UPDATED", lambda device: device["updated"]),
)
