"""Waiting for a rollout to end: the loop behind `push` and `rollout status --watch`, and what its end means.

The loop asks the server, hands the answer to a Progress and pauses. It rides over a restart of the server. The
rollout belongs to the server: an interrupt, a deadline or a lost connection ends the waiting, never the rollout.
"""

import time
from collections.abc import Callable

from beamfleet_server.cli.client import Client
from beamfleet_server.cli.errors import ABORTED, DEADLINE, DONE, HALTED, CommandError
from beamfleet_server.cli.output import Output
from beamfleet_server.cli.progress import (
    BAD,
    Progress,
    Rollout,
    everyone,
    progress_on,
    show_reason,
    standing,
    summary,
)
from beamfleet_server.errors import ServerError

PAUSE_S, LONGEST_PAUSE_S = 0.5, 5.0
MANY = 1000
"""For so many devices of a rollout the pause grows once by itself: to count them is the server's work."""
SHOWN = 100
"""Devices that are asked for each time, the most interesting ones."""
NAMED = 10
PATIENCE_S = 600
_CODES = {"completed": DONE, "halted": HALTED, "aborted": ABORTED, "expired": DEADLINE}


def follow(
    client: Client,
    number: int,
    progress: Progress,
    *,
    timeout_s: float = 0,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Rollout, int]:
    """The rollout as last seen, and the exit code: by its end, or 5 when `timeout_s` (0: none) passed first.

    A pause, a gate and a soak are said once each, and waited out.
    """
    end = clock() + timeout_s
    outage = Outage(progress.note)
    said = ""
    rollout: Rollout | None = None
    while True:
        left_s = max(0.0, end - clock()) if timeout_s else PATIENCE_S
        try:
            rollout = client.get(
                f"/rollouts/{number}",
                {"devices": SHOWN},
                patience_s=min(left_s, PATIENCE_S),
                on_trouble=outage.begin,
            )
        except CommandError:
            if rollout is None or left_s >= PATIENCE_S:
                raise
            return rollout, DEADLINE
        outage.end()
        progress.show(rollout)
        if rollout["state"] in _CODES:
            return rollout, _CODES[rollout["state"]]
        if (now_said := standing(rollout)) and now_said != said:
            progress.note(f"rollout {number}: {now_said}")
        said = now_said
        pause_s = min(LONGEST_PAUSE_S, PAUSE_S * (1 + everyone(rollout) // MANY))
        if timeout_s and clock() + pause_s > end:
            return rollout, DEADLINE
        pause(pause_s)


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
    """Print how it ended; on stderr who was skipped, and for what is no success the error, the most frequent reasons
    and what to do next."""
    output.done(rollout, summary(rollout), "id")
    number = rollout["id"]
    skipped = [device for device in rollout["devices"] if device["state"] == "skipped"][:NAMED]
    for device in skipped:
        output.note(f"skipped {device['id']}: {device['reason']}")
    if (more := rollout["counts"].get("skipped", 0) - len(skipped)) > 0:
        output.note(f"and {more} more: beamfleet rollout devices {number} --state skipped")
    if code == DONE:
        return
    for reason in rollout.get("reasons", ()):
        if reason["state"] in BAD:
            output.note(show_reason(reason))
    for line in _words(rollout, code):
        output.note(line)


def _words(rollout: Rollout, code: int) -> tuple[str, str]:
    """The error and the hint of an end that is no success."""
    number, reason = rollout["id"], rollout["reason"]
    if code == HALTED:
        hint = (
            f"beamfleet rollout devices {number} --state reverted,failed says more; push a mended release under a new"
        )
        return (
            f"error: rollout {number} halted: {reason} (rollout.halted)",
            f"hint: {hint} version; beamfleet rollout undo {number} takes back what has committed",
        )
    if code == ABORTED:
        return (
            f"error: rollout {number} was aborted: {reason} (rollout.aborted)",
            "hint: beamfleet rollout start begins another one",
        )
    if rollout["state"] == "expired":
        return (
            f"error: rollout {number} has expired: {reason or 'its time is over'} (rollout.deadline)",
            f"hint: beamfleet rollout devices {number} --state pending shows who is left; start it again for them",
        )
    return (
        f"error: rollout {number} has not ended in time (rollout.deadline)",
        f"hint: it goes on; beamfleet rollout status {number} --watch follows it again",
    )


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
