"""The update state machine: pure `(state, event) -> (state, actions)`. Knows no I/O, no clock, no randomness.

The agent feeds events, writes the journal when the durable part of the state changed, and only then performs the
actions. The launcher's word (`Ground`, what boot/state says) beats everything that this machine believed before.

    idle ─> downloading ─> verified ─> staged ─> swapping ─> trial ─> committed | reverted          any ─> failed

| phase       | what is true                                 | leaves it                                              |
|-------------|----------------------------------------------|--------------------------------------------------------|
| idle        | nothing is wanted (or a hold)                | Checked with a release -> downloading                  |
| downloading | the worker writes into staging/              | Verified; Staged; Failed final -> failed, else Retry   |
| verified    | every file in staging/ has its signed hash   | Staged                                                 |
| staged      | slots/<id> is whole and durable              | Sound (the slot to go back to was re-hashed) -> swapping|
| swapping    | the launcher has been asked, by request      | Ground on trial -> trial; Refused -> staged or failed  |
| trial       | the new release runs, watched                | Proven -> `confirm`; Ground -> committed or reverted   |
| committed   | boot/state says so                           | a new assignment; Ground fallback -> reverted          |
| reverted    | boot/state says so                           | a new assignment with another attempt or release       |
| failed      | given up before any swap                     | the same                                               |

What a restart (power cut, kill -9) in each phase leads to; the journal and boot/state say where we were:

| phase       | event Started does                                                                                     |
|-------------|--------------------------------------------------------------------------------------------------------|
| downloading | staging/ has been emptied: the assignment is checked and fetched again (a whole slot is kept)   |
| verified    | the same                                                                                               |
| staged      | the ground is re-hashed, then the swap is asked for; without its slot: fetched again                   |
| swapping    | boot/state shows the trial or its end: follow it; else as staged (the launcher takes a request once)   |
| trial       | boot/state still shows it: watch from the start of the trial period again; else its end counts         |
| final       | kept; an assignment that came in meanwhile is checked                                                  |

Quarantine: (slot id, attempt) of what reverted or failed is `spent` and not tried again. A revert that happened while
nobody watched (`unconfirmed`, and the agent had nothing against the release) is no evidence and spends nothing.
"""

from typing import assert_never
from zlib import crc32

from beamfleet_agent.moves import (
    Action,
    Assigned,
    BootChanged,
    Cancel,
    Check,
    Checked,
    Commit,
    Event,
    Failed,
    Install,
    Observed,
    Proceed,
    Proven,
    Refused,
    Request,
    Retry,
    RetryDue,
    Rollback,
    Sound,
    Stage,
    Staged,
    Started,
    Tell,
    Verified,
    Verify,
    Watch,
)  # fmt: skip
from beamfleet_agent.update_state import PENDING, SWAPPED, Release, State, Update

RETRY_FIRST_S, RETRY_CAP_S = 1.0, 600.0
MAX_SPENT, MAX_RELEASES = 16, 4

Outcome = tuple[State, tuple[Action, ...]]


def step(state: State, event: Event) -> Outcome:  # noqa: C901 - one line for each event
    """The next state, and what to do once it is in the journal."""
    match event:
        case Started(ground, slots):
            return _started(state._replace(ground=ground, job="", tries=0, refused=""), slots)
        case Assigned(document):
            return _assigned(state, document)
        case Checked():
            return _checked(state._replace(job=""), event) if state.job == "check" else (state, ())
        case Verified(release):
            return _move(state, "downloading", "verified", release), ()
        case Staged(release):
            return _staged(state._replace(job=""), release)
        case Sound(release):
            return _sound(state._replace(job=""), release) if state.job == "verify" else (state, ())
        case Failed():
            return _failed(state._replace(job=""), state.job, event)
        case RetryDue():
            return _resume(state) if not state.job else (state, ())
        case BootChanged(ground):
            return _follow(state._replace(ground=ground))
        case Refused(reason):
            return _refused(state, reason)
        case Observed(reason, detail):
            return _observed(state, reason, detail)
        case Proven() | Commit():
            asked = (Request(f"confirm {state.update.slot} {state.update.attempt}"),)
            return state, asked if state.update.phase == "trial" else ()
        case Install(path):
            return _install(state, path)
        case Rollback():
            return _rollback(state)
        case _:
            assert_never(event)


def retry_after(tries: int, salt: str) -> float:
    """Seconds before try number `tries` + 1: doubling from 1 s to 10 minutes, of which half is jitter."""
    limit = min(RETRY_CAP_S, RETRY_FIRST_S * 2.0 ** min(tries - 1, 16))
    return limit * (0.5 + crc32(f"{salt}:{tries}".encode()) / 2**33)


def known(state: State, slot: str) -> Release | None:
    """The facts of the release in this slot, if the journal has them."""
    return next((release for release in state.releases if release.slot == slot), None)


# --- one function for each event that takes more than a line


def _started(state: State, slots: frozenset[str]) -> Outcome:
    update = state.update
    if update.phase == "staged" and update.slot not in slots:
        state = state._replace(update=update._replace(phase="downloading"))
    elif update.phase == "trial":
        state = state._replace(update=update._replace(reason="", detail=""))
    before = state.update.phase
    state, actions = _follow(state)
    if state.update.phase == "swapping":  # ask again, but look at the ground again first
        state = state._replace(update=state.update._replace(phase="staged"))
    if before == state.update.phase == "trial" and not actions:
        return _watch(state)
    if actions or state.job:
        return state, actions
    state, actions = _resume(state)
    if not actions and state.ground.slot and known(state, state.ground.slot) is None:  # the journal was lost
        return state._replace(job="verify"), (Verify(state.ground.slot),)
    return state, actions


def _assigned(state: State, document: str) -> Outcome:
    if document in (state.offered, state.accepted, state.refused):
        return state, ()
    state = state._replace(offered=document, tries=0)
    asked_here = state.update.phase in PENDING and state.update.origin in ("file", "rollback")
    if state.update.phase in SWAPPED or asked_here:
        return state, ()  # looked at when that is over
    cancel: tuple[Action, ...] = (Cancel(),) if state.job else ()
    return state._replace(job="check"), (*cancel, Check(document))


def _checked(state: State, event: Checked) -> Outcome:
    document = state.offered or state.accepted
    stale = event.sequence < state.sequence
    if not stale:
        state = state._replace(accepted=document, sequence=event.sequence)
    state, update, release = state._replace(offered=""), state.update, event.release
    if stale:
        told = Tell("update.stale", f"assignment {event.sequence} is older than {state.sequence}")
        state, actions = _resume(state)
        return state, (Cancel(), told, *actions)
    if release is None:
        held = Update("idle", sequence=event.sequence, origin="assignment", reason="hold")
        return state._replace(update=held if update.phase in PENDING else update), (Cancel(),)
    wanted = Update(
        "downloading", release.slot, release.manifest, release.product, release.version, event.attempt, event.sequence,
        "assignment",
    )  # fmt: skip
    if (release.slot, event.attempt) in state.spent:
        if (update.slot, update.attempt) != (release.slot, event.attempt):
            text = f"{release.product} {release.version} did not stay in attempt {event.attempt}"
            update = wanted._replace(phase="failed", reason="update.quarantined", detail=text)
        return state._replace(update=update), (Cancel(),)
    if _runs(state, release.slot):
        return state._replace(update=wanted._replace(phase="committed"), tries=0), (Cancel(),)
    return state._replace(update=wanted, job="fetch"), (Proceed(),)


def _staged(state: State, release: Release) -> Outcome:
    update = state.update
    if update.origin == "file" and update.phase == "downloading":
        state = _move(state, "downloading", "verified", release)
        update = state.update
    if update.phase not in ("downloading", "verified") or update.slot != release.slot:
        return _next(state)
    state = _remember(state, release)
    if _runs(state, release.slot):
        return _next(state._replace(update=update._replace(phase="committed"), tries=0))
    return _ground_check(state._replace(update=update._replace(phase="staged", reason="", detail=""), tries=0))


def _ground_check(state: State) -> Outcome:
    slot = _ground_of(state)
    return (state._replace(job="verify"), (Verify(slot),)) if slot else _swap(state)


def _ground_of(state: State) -> str:
    """What is re-hashed before the launcher is asked: the slot to go back to, or for a rollback the one to go to."""
    return state.ground.previous if state.update.origin == "rollback" else state.ground.slot


def _sound(state: State, release: Release) -> Outcome:
    state = _remember(state, release)
    update = _named(state.update, release) if state.update.slot == release.slot else state.update
    state = state._replace(update=update)
    if update.phase == "trial":
        return _watch(state)
    if update.phase != "staged":
        return _next(state)
    if _runs(state, update.slot):  # a fallback brought it back meanwhile
        return _next(state._replace(update=update._replace(phase="committed")))
    return _swap(state) if release.slot == _ground_of(state) else _ground_check(state)


def _swap(state: State) -> Outcome:
    update = state.update._replace(phase="swapping")
    return state._replace(update=update), (_swap_request(update),)


def _swap_request(update: Update) -> Request:
    return Request("rollback" if update.origin == "rollback" else f"swap {update.slot} {update.attempt}")


def _failed(state: State, job: str, event: Failed) -> Outcome:
    tries = state.tries + 1
    if tries <= event.patience:
        if state.update.phase in PENDING:
            state = state._replace(update=state.update._replace(reason=event.code, detail=event.message))
        return state._replace(tries=tries), (Retry(retry_after(tries, state.salt)),)
    told, state = Tell(event.code, event.message), state._replace(tries=0)
    if job == "check" and state.offered:  # a newer assignment that is no good: go on as before it came
        state, actions = _resume(state._replace(refused=state.offered, offered=""))
        return state, (told, *actions)
    if state.update.phase not in PENDING:
        state, actions = _next(state)
        return state, (told, *actions)
    state = state._replace(update=state.update._replace(phase="failed", reason=event.code, detail=event.message))
    return _next(state if job == "check" else _spend(state))


def _resume(state: State) -> Outcome:
    """Go on with what is unfinished: after a pause, after a restart, after something else has ended."""
    update = state.update
    if update.phase == "trial" and known(state, update.slot) is None:
        return _watch(state)
    if update.phase in SWAPPED:
        return state, ()
    if update.phase == "staged":
        return _ground_check(state)
    if update.phase in PENDING and update.origin == "file":
        return state._replace(job="stage", update=update._replace(phase="downloading")), (Stage(update.source),)
    document = state.offered or (state.accepted if update.phase in PENDING else "")
    if not document:
        return state, ()
    return state._replace(job="check"), (Check(document),)


def _next(state: State) -> Outcome:
    """An update has ended; an assignment may have come in meanwhile."""
    return _resume(state) if state.offered and not state.job else (state, ())


def _follow(state: State) -> Outcome:
    """What boot/state says, applied to the update."""
    update, ground = state.update, state.ground
    ours = (update.slot, update.attempt) == (ground.slot, ground.attempt)
    failed = (update.slot, update.attempt) == (ground.failed_slot, ground.failed_attempt)
    if update.origin == "rollback" and update.phase == "swapping":
        failed = False  # its attempt is always 0: this may be an older one
    if ground.phase == "trial":
        if ours and update.phase == "trial":
            return state, ()
        cancel: tuple[Action, ...] = ()
        if update.phase not in SWAPPED or not ours:
            cancel = (Cancel(),) if state.job else ()
            state = state._replace(job="")
        if not ours or update.phase not in SWAPPED | {"staged"}:
            state = _adopt(state)
        entered = state.update._replace(phase="trial", reason="", detail="")
        state, actions = _watch(state._replace(update=entered, tries=0))
        return state, (*cancel, *actions)
    fell = ground.phase == "fallback" and ground.failed_slot == update.slot != ground.slot
    if update.phase == "committed" and fell:
        detail = "the committed release failed too many boots in a row"
        return _next(_spend(state._replace(update=update._replace(phase="reverted", reason="fallback", detail=detail))))
    if update.phase not in SWAPPED:
        return state, ()
    if (ground.phase == "committed" and ours) or (update.phase == "swapping" and _runs(state, update.slot)):
        release = known(state, update.slot)
        floor = max(state.floor, release.floor if release else 0)
        return _next(state._replace(update=update._replace(phase="committed", reason="", detail=""), floor=floor))
    if failed:
        return _next(_reverted(state, ground.failed_cause))
    if update.phase == "trial":  # its end was not recorded: boot/state was damaged and re-made
        return _next(_reverted(state, ground.cause or "unknown"))
    return state, ()


def _adopt(state: State) -> State:
    """A trial that we did not ask for, or no longer know of, runs: follow it; what was under way is looked at later."""
    ground, release = state.ground, known(state, state.ground.slot)
    origin = "rollback" if ground.cause == "rollback" else "device"
    found = Update("trial", ground.slot, "", "", "", ground.attempt, 0, origin)
    if release is not None:
        found = _named(found, release)
    unfinished = state.update.origin == "assignment" and state.update.phase in PENDING | {"swapping"}
    return state._replace(update=found, offered=state.offered or (state.accepted if unfinished else ""))


def _watch(state: State) -> Outcome:
    update, release = state.update, known(state, state.update.slot)
    if release is not None:
        return state, (Watch(update.slot, update.attempt, release),)
    cancel: tuple[Action, ...] = (Cancel(),) if state.job else ()
    return state._replace(job="verify"), (*cancel, Verify(update.slot))


def _reverted(state: State, cause: str) -> State:
    update = state.update
    if cause != "unconfirmed":
        update = update._replace(reason=cause, detail="" if cause == "operator" else update.detail)
        return _spend(state._replace(update=update._replace(phase="reverted")))
    if update.reason:  # we watched, and saw why
        return _spend(state._replace(update=update._replace(phase="reverted")))
    ended = update._replace(phase="reverted", reason=cause, detail="nobody confirmed the trial in time")
    return state._replace(update=ended)


def _refused(state: State, reason: str) -> Outcome:
    update = state.update
    if update.phase == "trial":
        return _watch(state)
    if update.phase != "swapping":
        return state, ()
    if reason == "trial_running":
        tries = state.tries + 1
        waiting = update._replace(phase="staged", reason="update.refused", detail=reason)
        return state._replace(update=waiting, tries=tries), (Retry(retry_after(tries, state.salt)),)
    detail = f"the launcher refused the swap: {reason}"
    return _next(_spend(state._replace(update=update._replace(phase="failed", reason="update.refused", detail=detail))))


def _observed(state: State, reason: str, detail: str) -> Outcome:
    if state.update.phase != "trial":
        return state, ()
    return state._replace(update=state.update._replace(reason=reason, detail=detail)), ()


def _install(state: State, path: str) -> Outcome:
    if state.update.phase in SWAPPED:
        return state, ()
    cancel: tuple[Action, ...] = (Cancel(),) if state.job else ()
    wanted = Update("downloading", origin="file", source=path)
    return state._replace(update=wanted, job="stage", tries=0), (*cancel, Stage(path))


def _rollback(state: State) -> Outcome:
    ground = state.ground
    if ground.phase == "trial":
        return state, (Request("rollback"),)
    if state.update.phase in SWAPPED or not ground.previous:
        return state, ()
    cancel: tuple[Action, ...] = (Cancel(),) if state.job else ()
    wanted, release = Update("staged", ground.previous, origin="rollback"), known(state, ground.previous)
    if release is not None:
        wanted = _named(wanted, release)
    state, actions = _ground_check(state._replace(update=wanted, job="", tries=0))
    return state, (*cancel, *actions)


# --- small changes


def _move(state: State, before: str, after: str, release: Release) -> State:
    """`before` becomes `after`; a bundle file names its release only now."""
    update = state.update
    if update.phase != before or (update.slot and update.slot != release.slot):
        return state
    attempt = update.attempt or 1 + max((tried for slot, tried in state.spent if slot == release.slot), default=0)
    named = _named(update._replace(phase=after, slot=release.slot, attempt=attempt, reason="", detail=""), release)
    return state._replace(update=named)


def _named(update: Update, release: Release) -> Update:
    return update._replace(manifest=release.manifest, product=release.product, version=release.version)


def _runs(state: State, slot: str) -> bool:
    return slot == state.ground.slot and state.ground.phase != "trial"


def _spend(state: State) -> State:
    update = state.update
    if not update.slot or update.origin == "rollback" or (update.slot, update.attempt) in state.spent:
        return state
    return state._replace(spent=(*state.spent, (update.slot, update.attempt))[-MAX_SPENT:])


def _remember(state: State, release: Release) -> State:
    """Keep the facts of what runs, what is next and what was before; forget the oldest others."""
    others = tuple(known for known in state.releases if known.slot != release.slot)
    return state._replace(releases=(*others, release)[-MAX_RELEASES:])
