"""Owns the values of the update state machine: what the device knows of releases, of its update and of the ground.

Plain tuples: part of the resident agent, where dataclasses would cost 0.9 MB. Two kinds with the same content compare
equal; `match` tells them apart.
"""

from typing import NamedTuple

from beamfleet_agent.probes import Probe

PHASES = ("idle", "downloading", "verified", "staged", "swapping", "trial", "committed", "reverted", "failed")
PENDING = frozenset({"downloading", "verified", "staged"})
"""Before the swap: may still be given up."""
POINTS = frozenset({"pre-download", "pre-swap"})
"""Where the launcher runs hooks because we ask it to."""
SWAPPED = frozenset({"swapping", "trial"})
"""The launcher has the word."""
FINAL = frozenset({"idle", "committed", "reverted", "failed"})
MAX_SPENT, MAX_RELEASES = 16, 4


class Release(NamedTuple):
    """What the device must know of a release once its worker has gone. `manifest` is 64 hex digits."""

    manifest: str
    product: str
    version: str
    permanent: tuple[str, ...] = ()
    """Names of the applications that must run."""
    probe_http: str = ""
    """`PORT/PATH` on 127.0.0.1, or empty."""
    probe_command: bool = False
    probe_timeout_s: int = 5
    floor: int = 0
    """Lowest counter that may be installed once this release is committed."""
    data_schema: int = -1
    """Layout of what it keeps in data/; -1: it states none, or an older agent wrote this down."""
    probes: tuple[Probe, ...] = ()
    """Those that go on after the trial."""
    confirm: bool = False
    """Whether its trial waits until it has confirmed itself."""

    @property
    def slot(self) -> str:
        """The slot's name."""
        return self.manifest[:32]


class Update(NamedTuple):
    """The newest update, finished or not. `origin`: assignment, file, rollback (asked for here) or device (found)."""

    phase: str = "idle"
    slot: str = ""
    manifest: str = ""
    product: str = ""
    version: str = ""
    attempt: int = 0
    sequence: int = 0
    origin: str = ""
    source: str = ""
    """Path of the bundle file when `origin` is file."""
    reason: str = ""
    detail: str = ""
    put_off: int = 0
    """How often hooks asked to be run later, since the last time they did not."""
    forced: bool = False
    """It may go to a lower data_schema; an assignment that hooks may not put off."""
    trace: str = ""
    """The `traceparent` of its assignment, if the server traces."""

    @property
    def trace_id(self) -> str:
        """The trace that it is part of, or empty."""
        return self.trace[3:35]

    @property
    def span_id(self) -> str:
        """The span in that trace that it is, or empty."""
        return self.trace[36:52]


class Ground(NamedTuple):
    """What boot/state says, as far as updates care."""

    slot: str = ""
    previous: str = ""
    phase: str = "none"
    attempt: int = 0
    cause: str = ""
    failed_slot: str = ""
    failed_attempt: int = 0
    failed_cause: str = ""
    detail: str = ""
    """Of a revert: how the release that did not stay ended."""


class State(NamedTuple):
    """What comes before `ground` is journalled; `ground` and what follows is rebuilt at each start."""

    update: Update = Update()
    offered: str = ""
    """The newest assignment that has not been checked yet."""
    accepted: str = ""
    """The newest assignment that was checked and decided on."""
    sequence: int = 0
    """The highest of an assignment that was accepted. It binds while one of the keys of `director` is still good."""
    director: str = ""
    """Ids of the keys that could sign it, apart by spaces; "" when an older agent wrote this down."""
    spent: tuple[tuple[str, int], ...] = ()
    releases: tuple[Release, ...] = ()
    floors: tuple[tuple[str, int], ...] = ()
    """(product, the highest floor of a release of it that was committed), by name."""
    done: tuple[str, int] = ("", 0)
    """(slot, attempt) of the newest assignment that was carried out: what runs now may be a person's choice."""
    ground: Ground = Ground()
    job: str = ""
    """What is under way: the worker's check, fetch, stage or verify, the hooks of one of POINTS, or nothing."""
    sound: str = ""
    """The slot that was re-hashed for the swap that is next."""
    tries: int = 0
    refused: str = ""
    """An assignment that failed its check for good in this life of the agent."""
    salt: str = ""
    """Makes the jitter of this device its own."""


def known(state: State, slot: str) -> Release | None:
    """The facts of the release in this slot, if the journal has them."""
    return next((release for release in state.releases if release.slot == slot), None)


def remember(state: State, release: Release) -> State:
    """Keep the facts of what runs, what is next and what was before; forget the oldest others."""
    others = tuple(known for known in state.releases if known.slot != release.slot)
    return state._replace(releases=(*others, release)[-MAX_RELEASES:])


def director_replaced(before: str, now: str) -> bool:
    """Whether no key that could sign an assignment before can do so now; both are ids apart by spaces.

    Only then can the order begin anew: nobody can bring an old assignment back. A thief with the old key may have
    signed the highest sequence there is.
    """
    return bool(before and now) and not set(before.split()) & set(now.split())


def commit_floor(state: State, release: Release) -> State:
    """The release is committed: of its product nothing below its floor is installed any more."""
    floors = dict(state.floors)
    floors[release.product] = max(floors.get(release.product, 0), release.floor)
    return state._replace(floors=tuple(sorted(floors.items())))


def committed(state: State) -> State:
    """The update's release runs, and stays."""
    update = state.update._replace(phase="committed", reason="", detail="")
    done = (update.slot, update.attempt) if update.origin == "assignment" else state.done
    return state._replace(update=update, done=done, tries=0)


def named(update: Update, release: Release) -> Update:
    """The update with the names of its release."""
    return update._replace(manifest=release.manifest, product=release.product, version=release.version)


def runs(state: State, slot: str) -> bool:
    """Whether this slot runs, not on trial."""
    return slot == state.ground.slot and state.ground.phase != "trial"


def spend(state: State) -> State:
    """Quarantine (slot, attempt) of the update; a rollback is asked for by a person, who may ask again."""
    update = state.update
    if not update.slot or update.origin == "rollback" or (update.slot, update.attempt) in state.spent:
        return state
    return state._replace(spent=(*state.spent, (update.slot, update.attempt))[-MAX_SPENT:])
