"""Owns the words of a rollout: where a member can be, how a rollout can stand, and what is no evidence against a
release.

    pending ─> offered ─> downloading ─> verifying ─> staged ─> waiting ─> swapping ─> trial ─> committed
       ^          └──────────────────────── held ────────────────────┘         └────────┴──> reverted, failed
       └── held, retried, next stone                                          skipped, superseded: out of it

Only `committed` counts.
"""

from enum import StrEnum


class State(StrEnum):
    """Where a member is. The last five are final."""

    PENDING = "pending"
    OFFERED = "offered"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    STAGED = "staged"
    WAITING = "waiting"
    SWAPPING = "swapping"
    TRIAL = "trial"
    COMMITTED = "committed"
    REVERTED = "reverted"
    FAILED = "failed"
    SKIPPED = "skipped"
    SUPERSEDED = "superseded"


class Progress(StrEnum):
    """How a rollout stands. `paused` is a person's, `halted` the threshold's. A completed one takes late joiners until
    it expires."""

    RUNNING = "running"
    PAUSED = "paused"
    HALTED = "halted"
    COMPLETED = "completed"
    ABORTED = "aborted"
    EXPIRED = "expired"


NOT_SWAPPED = (State.OFFERED, State.DOWNLOADING, State.VERIFYING, State.STAGED, State.WAITING)
SWAPPED = (State.SWAPPING, State.TRIAL)
IN_FLIGHT = NOT_SWAPPED + SWAPPED
"""In the order in which a device passes them."""
FINAL = (State.COMMITTED, State.REVERTED, State.FAILED, State.SKIPPED, State.SUPERSEDED)
ENDED = (Progress.ABORTED, Progress.EXPIRED)
"""Rollouts that nothing brings back."""
OWNING = (Progress.RUNNING, Progress.PAUSED, Progress.HALTED, Progress.COMPLETED)
"""Rollouts that keep their members from those of a lower rank, until they expire."""
JOINABLE = (Progress.RUNNING, Progress.PAUSED, Progress.COMPLETED)
"""Rollouts that late devices join, until they expire."""

SETTLED = ("committed", "reverted", "fallback")
"""Phases of `boot/state` in which what runs has been committed, now or before what failed came and went."""
WORDS = {
    "downloading": State.DOWNLOADING,
    "verified": State.VERIFYING,
    "staged": State.STAGED,
    "swapping": State.SWAPPING,
    "trial": State.TRIAL,
}
"""What a device says of its update that it works on -> the state."""
PUT_OFF = "update.hook"
"""What is not to be fetched or swapped yet, for this reason, is `waiting`: a hook of its owner said later."""
ID_LENGTH = 32
"""Hex digits of a manifest's hash that name a slot."""

NO_EVIDENCE_CAUSES = ("power", "unconfirmed", "uncounted")
"""Causes of a revert that say nothing about the release."""
NO_EVIDENCE_CODES = (
    "worker.network", "worker.server", "worker.killed", "worker.spawn", "worker.memory", "slot.busy", "agent.io",
    "agent.journal", "boot.request", "update.stale", "update.busy", "update.no_launcher",
)  # fmt: skip
NO_EVIDENCE_PREFIXES = ("enrol.", "certificate.", "renew.", "session.")
"""Codes of failures before the swap that say nothing about the release; the prefixes are of whole families."""

ALREADY = "already"
DEADLINE = "deadline"
HELD = "held"
PINNED = "pinned"
REPLACED = "replaced"
RETIRED = "decommissioned"
STEP = "step"
TARGET = "target"
VERSION = "version"
"""Reasons of members that are ours: runs it already; too late; put on hold; left alone; out of service, with another
in its place or without; the next stone is due; no bundle for its target; its version is unknown and the plan has
stones."""


def is_evidence(state: State, reason: str) -> bool:
    """Whether a member that came to `reverted` or `failed` for `reason` speaks against the release."""
    if state is State.REVERTED:
        return reason not in NO_EVIDENCE_CAUSES
    return reason not in NO_EVIDENCE_CODES and not reason.startswith(NO_EVIDENCE_PREFIXES)
