"""Waiting for a rollout to end: the loop behind `push` and `rollout status --watch`, and what its end means.

The loop asks the server, hands the answer to a Progress and pauses. It rides over a restart of the server. The
rollout belongs to the server: an interrupt, a deadline or a lost connection ends the waiting, never the rollout.
"""

import time
from collections.abc import Callable

from beamfleet_server.cli.client import Client
from beamfleet_server.cli.errors import ABORTED, DEADLINE, DONE, HALTED, CommandError
from beamfleet_server.cli.output import Output
from beamfleet_server.cli.progress import Progress, Rollout, progress_on, summary
from beamfleet_server.errors import ServerError

PAUSE_S = 0.5
PATIENCE_S = 600
_CODES = {"completed": DONE, "halted": HALTED, "aborted": ABORTED}


def follow(
    client: Client,
    number: int,
    progress: Progress,
    *,
    timeout_s: float = 0,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Rollout, int]:
    """The rollout as last seen, and the exit code: by its end, or 5 when `timeout_s` (0: none) passed first."""
    end = clock() + timeout_s
    outage = Outage(progress.note)
    rollout: Rollout | None = None
    while True:
        left_s = max(0.0, end - clock()) if timeout_s else PATIENCE_S
        try:
            rollout = client.get(f"/rollouts/{number}", patience_s=min(left_s, PATIENCE_S), on_trouble=outage.begin)
        except CommandError:
            if rollout is None or left_s >= PATIENCE_S:
                raise
            return rollout, DEADLINE
        outage.end()
        progress.show(rollout)
        if rollout["state"] in _CODES:
            return rollout, _CODES[rollout["state"]]
        if timeout_s and clock() + PAUSE_S > end:
            return rollout, DEADLINE
        pause(PAUSE_S)


def follow_to_the_end(client: Client, output: Output, number: int, timeout_s: float) -> tuple[Rollout, int]:
    """`follow` with progress on stderr; on Ctrl-C it says how to go on."""
    progress = progress_on(output.stderr)
    try:
        return follow(client, number, progress, timeout_s=timeout_s)
    except KeyboardInterrupt:
        progress.close()
        output.note(f"rollout {number} goes on without you")
        output.note(
            f"hint: beamfleet rollout status {number} --watch follows it, beamfleet rollout abort {number} ends it"
        )
        raise
    except CommandError as error:
        raise CommandError(
            error.code, error.message, f"the rollout goes on: beamfleet rollout status {number} --watch"
        ) from error
    finally:
        progress.close()


def conclude(output: Output, rollout: Rollout, code: int) -> None:
    """Print how it ended; on stderr who was skipped, and for what is no success the error and what to do next."""
    output.done(rollout, summary(rollout), "id")
    number = rollout["id"]
    for device in rollout["devices"]:
        if device["state"] == "skipped":
            output.note(f"skipped {device['id']}: {device['reason']}")
    match code:
        case 0:
            pass
        case 3:
            output.note(f"error: rollout {number} halted: {rollout['reason']} (rollout.halted)")
            output.note("hint: beamfleet device show DEVICE says more; push a mended release under a new version")
        case 4:
            output.note(f"error: rollout {number} was aborted: {rollout['reason']} (rollout.aborted)")
            output.note("hint: beamfleet rollout start begins another one")
        case _:
            output.note(f"error: rollout {number} has not ended in time (rollout.deadline)")
            output.note(f"hint: it goes on; beamfleet rollout status {number} --watch follows it again")


class Outage:
    """Says once that the server does not answer, and once that it does again."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._lasts = False

    def begin(self, error: ServerError) -> None:
        if not self._lasts:
            self._note(f"{error.message}; waiting for it")
        self._lasts = True

    def end(self) -> None:
        if self._lasts:
            self._note("the server answers again")
        self._lasts = False
