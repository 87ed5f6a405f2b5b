"""`beamfleet rollout pause|resume|approve|abort|undo|retry`: what people do to a rollout while it runs, or after it."""

import secrets
from typing import Annotated

import typer

from beamfleet_server.cli import completion
from beamfleet_server.cli.options import Printed, RolloutId, Timeout, examples
from beamfleet_server.cli.output import Format, Item
from beamfleet_server.cli.quantities import parse_duration
from beamfleet_server.cli.rollouts import Watch, app, watch
from beamfleet_server.cli.session import Session
from beamfleet_server.cli.starting import announce

__all__ = ("app",)

Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="A word for the history.")]


@app.command("pause", epilog=examples("beamfleet rollout pause 7 --reason 'a customer called'"))
def pause(ctx: typer.Context, rollout: RolloutId, reason: Reason = "", output: Printed = Format.TABLE) -> None:
    """Pause a rollout: no more offers, and a hold for devices that have not swapped, until somebody resumes it.

    What has swapped ends its trial by itself.
    """
    session = Session.of(ctx, output)
    paused = session.client.post_again(f"/rollouts/{rollout}/pause", {"reason": reason})
    _say(session, paused, f"beamfleet rollout resume {rollout}")


@app.command("resume", epilog=examples("beamfleet rollout resume 7"))
def resume(ctx: typer.Context, rollout: RolloutId, output: Printed = Format.TABLE) -> None:
    """Go on with a rollout that somebody has paused."""
    session = Session.of(ctx, output)
    resumed = session.client.post_again(f"/rollouts/{rollout}/resume", {})
    _say(session, resumed, f"beamfleet rollout status {rollout} --watch")


@app.command("approve", epilog=examples("beamfleet rollout approve 7"))
def approve(ctx: typer.Context, rollout: RolloutId, output: Printed = Format.TABLE) -> None:
    """Open the gate at which a rollout waits: its next phase begins.

    Rollouts that are so large that they need two people are another matter: `beamfleet approval list`.
    """
    session = Session.of(ctx, output)
    phase = session.client.get(f"/rollouts/{rollout}", {"devices": 0})["phase"]
    approved = session.client.post_again(f"/rollouts/{rollout}/approve", {"phase": phase})
    session.output.done(
        approved,
        f"the gate after {phase} is open; rollout {rollout} is at {approved['phase']}",
        "id",
        f"beamfleet rollout status {rollout} --watch",
    )


@app.command(
    "abort", epilog=examples("beamfleet rollout abort 7", "beamfleet rollout abort 7 --reason 'wrong release'")
)
def abort(ctx: typer.Context, rollout: RolloutId, reason: Reason = "", output: Printed = Format.TABLE) -> None:
    """End a rollout: no more offers, and devices that have not swapped keep what they run.

    Devices that have committed stay on the new release; `beamfleet rollout undo` takes them back.
    """
    session = Session.of(ctx, output)
    aborted = session.client.post_again(f"/rollouts/{rollout}/abort", {"reason": reason})
    _say(session, aborted, f"beamfleet rollout status {rollout}")


@app.command("undo", epilog=examples("beamfleet rollout undo 7 --watch"))
def undo(
    ctx: typer.Context,
    rollout: RolloutId,
    follow: Watch = False,
    timeout: Timeout = "",
    output: Printed = Format.TABLE,
) -> None:
    """Take the devices that a rollout has committed back to what they ran before it.

    A rollout of its own, with the same phases and the same care. One that still runs is aborted first.
    """
    session = Session.of(ctx, output)
    timeout_s = parse_duration(timeout) if timeout else 0
    key = secrets.token_hex(16)
    undoing = session.client.post_again(f"/rollouts/{rollout}/undo", {"key": key})
    if follow:
        watch(session, undoing["id"], timeout_s)
    announce(session, undoing)


@app.command("retry", epilog=examples("beamfleet rollout retry 7", "beamfleet rollout retry 7 --device gw-4"))
def retry(
    ctx: typer.Context,
    rollout: RolloutId,
    devices: Annotated[
        list[str] | None,
        typer.Option("--device", metavar="DEVICE", help="Only this one; repeat.", autocompletion=completion.devices),
    ] = None,
    output: Printed = Format.TABLE,
) -> None:
    """Let devices that have reverted or failed try again, all of a rollout or some.

    What they did so far no longer counts against it; a rollout that it has halted goes on. A release in quarantine is
    lifted first: `beamfleet quarantine lift`.
    """
    session = Session.of(ctx, output)
    body = {"devices": list(devices)} if devices else {}
    retried = session.client.post(f"/rollouts/{rollout}/retry", body)
    count = retried["retried"]
    session.output.done(
        retried,
        f"{count} {'device tries' if count == 1 else 'devices try'} again",
        "rollout",
        f"beamfleet rollout status {rollout} --watch",
    )


def _say(session: Session, rollout: Item, then: str) -> None:
    session.output.done(rollout, f"rollout {rollout['id']} is {rollout['state']}", "id", then)
