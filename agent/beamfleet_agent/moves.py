"""Owns the events that the update state machine takes and the actions that it gives; decides nothing."""

from typing import NamedTuple

from beamfleet_agent.update_state import Ground, Release


class Started(NamedTuple):
    """The agent starts; `slots` are the slots that are there."""

    ground: Ground
    slots: frozenset[str]


class Assigned(NamedTuple):
    """An assignment came in: the signed document, not yet verified."""

    document: str


class Checked(NamedTuple):
    """The assignment or the bundle file is authentic; the worker waits for our word.

    Of an assignment the release has only names yet, and None is a hold; a file has no sequence and no attempt.
    """

    sequence: int
    attempt: int
    release: Release | None
    director: str = ""
    """Ids of the keys that may sign assignments now, apart by spaces."""
    forced: bool = False
    """Hooks may not put it off, and it may have a lower data_schema than what runs."""
    trace: str = ""
    """The `traceparent` of the assignment, if the server traces."""


class Hooked(NamedTuple):
    """The hooks of a point have ended: 0 go on, 21 later, anything else no; below 0: nobody answered."""

    point: str
    slot: str
    attempt: int
    status: int
    name: str = "-"
    """The one that decided."""
    output: str = ""


class Verified(NamedTuple):
    """Every file is in staging/ with its signed hash."""

    release: Release


class Staged(NamedTuple):
    """The slot is whole and durable. `release` came with the bundle file or was known before."""

    release: Release


class Sound(NamedTuple):
    """The slot that was to be re-hashed is as its manifest says."""

    release: Release


class Failed(NamedTuple):
    """The worker failed. `patience` is how often the same may be tried before it counts as the last word; 0: never."""

    code: str
    message: str
    patience: int = 0


class RetryDue(NamedTuple):
    """The time of a `Retry` has come, or the network came back."""


class BootChanged(NamedTuple):
    """boot/state was replaced."""

    ground: Ground


class Refused(NamedTuple):
    """The launcher refused our newest request."""

    reason: str


class Observed(NamedTuple):
    """The trial looks different: what is wrong with the running release, or ("", "") when it is well."""

    reason: str
    detail: str


class Proven(NamedTuple):
    """The release was well for the whole trial period."""


class Install(NamedTuple):
    """Somebody at the device asks for the release in this bundle file."""

    path: str


class Rollback(NamedTuple):
    """Somebody at the device asks for the previous release; `forced`: even if its data_schema is lower."""

    forced: bool = False


class Commit(NamedTuple):
    """Somebody at the device ends the trial in favour of the new release."""


Event = (
    Started | Assigned | Checked | Hooked | Verified | Staged | Sound | Failed | RetryDue | BootChanged | Refused
    | Observed | Proven | Install | Rollback | Commit
)  # fmt: skip


class Check(NamedTuple):
    """Start the worker on this assignment; it reports Checked and waits."""

    document: str


class Proceed(NamedTuple):
    """Let the waiting worker fetch."""


class Hook(NamedTuple):
    """Have the launcher run the hooks of this point; Hooked comes back, at once where there are none."""

    point: str
    slot: str
    attempt: int


class Cancel(NamedTuple):
    """End the worker; want no answer of hooks any more."""


class Stage(NamedTuple):
    """Start the worker on this bundle file; it reports Checked and waits."""

    path: str


class Verify(NamedTuple):
    """Have the worker re-hash this slot."""

    slot: str


class Request(NamedTuple):
    """Ask the launcher."""

    line: str


class Watch(NamedTuple):
    """Watch the running release from now on for the trial period."""

    slot: str
    attempt: int
    release: Release


class Retry(NamedTuple):
    """Come back with RetryDue."""

    after_s: float


class Tell(NamedTuple):
    """An error that belongs to no update goes into the log and to the server."""

    code: str
    message: str


Action = Check | Proceed | Hook | Cancel | Stage | Verify | Request | Watch | Retry | Tell
