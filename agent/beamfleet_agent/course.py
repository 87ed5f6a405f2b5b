"""Owns the course of an update: the next step of what is unfinished, up to the swap. Pure; `update.step` is the way in.

resume        after a pause, a restart, or the end of something else: what is unfinished goes on
call_hooks    before anything is fetched, and before the swap; `called` takes their answer
check_ground  the slot to go back to is re-hashed; then swap
watch         a trial, once it is known what its release promises
proceed       an update has ended: an assignment may have come in meanwhile
"""

from zlib import crc32

from beamfleet_agent.moves import Action, Cancel, Check, Hook, Hooked, Proceed, Request, Retry, Stage, Verify, Watch
from beamfleet_agent.update_state import PENDING, SWAPPED, State, Update, committed, known, runs, spend

RETRY_FIRST_S, RETRY_CAP_S = 1.0, 600.0
LATER = 21
"""Exit status of a hook that wants to be run later."""
MAX_PUT_OFF = 10

Outcome = tuple[State, tuple[Action, ...]]


def retry_after(tries: int, salt: str) -> float:
    """Seconds before try number `tries` + 1: doubling from 1 s to 10 minutes, of which half is jitter."""
    limit = min(RETRY_CAP_S, RETRY_FIRST_S * 2.0 ** min(tries - 1, 16))
    return limit * (0.5 + crc32(f"{salt}:{tries}".encode()) / 2**33)


def resume(state: State) -> Outcome:
    """Go on with what is unfinished: after a pause, after a restart, after something else has ended."""
    update = state.update
    if update.phase == "trial" and known(state, update.slot) is None:
        return watch(state)
    if update.phase in SWAPPED:
        return state, ()
    if update.phase == "staged":
        return check_ground(state)
    if update.phase in PENDING and update.origin == "file":
        return state._replace(job="stage", update=update._replace(phase="downloading")), (Stage(update.source),)
    document = state.offered or (state.accepted if update.phase in PENDING else "")
    if not document:
        return state, ()
    return state._replace(job="check"), (Check(document),)


def proceed(state: State) -> Outcome:
    """An update has ended; an assignment may have come in meanwhile."""
    waiting = state.offered and not state.job and state.update.phase not in SWAPPED
    return resume(state) if waiting else (state, ())


def watch(state: State) -> Outcome:
    """Watch the trial; what its release promises is read from its slot if it is not known."""
    update, release = state.update, known(state, state.update.slot)
    if release is not None:
        return state, (Watch(update.slot, update.attempt, release),)
    cancel: tuple[Action, ...] = (Cancel(),) if state.job else ()
    return state._replace(job="verify"), (*cancel, Verify(update.slot))


# --- hooks


def call_hooks(state: State, point: str) -> Outcome:
    """Let the owner's hooks have their say."""
    return state._replace(job=point), (Hook(point, state.update.slot, state.update.attempt),)


def called(state: State, answer: Hooked) -> Outcome:
    """The hooks that we waited for have ended."""
    update, before_download = state.update, answer.point == "pre-download"
    if answer.status == 0 or (answer.status == LATER and update.origin == "assignment" and update.forced):
        state = state._replace(job="", update=update._replace(put_off=0, reason="", detail=""))
        if not before_download:
            return swap(state)
        return state._replace(job="stage" if update.origin == "file" else "fetch"), (Proceed(),)
    cancel: tuple[Action, ...] = (Cancel(),) if before_download else ()  # the worker that waited with us
    who = f"the hook {answer.name} of {answer.point} ended with {answer.status}"
    if answer.status < 0:
        who = f"the hooks of {answer.point} gave no answer"
    said = f"{who}: {answer.output}" if answer.output else who
    update = update._replace(reason="update.hook", detail=said, put_off=update.put_off + 1)
    state = state._replace(job="", update=update)
    if answer.status == LATER and update.put_off <= MAX_PUT_OFF:
        return state, (*cancel, Retry(retry_after(update.put_off, state.salt)))
    state, actions = proceed(spend(state._replace(update=update._replace(phase="failed"))))
    return state, (*cancel, *actions)


# --- the ground and the swap


def ground_of(state: State) -> str:
    """What is re-hashed before the launcher is asked: the slot to go back to, or for a rollback the one to go to."""
    return state.ground.previous if state.update.origin == "rollback" else state.ground.slot


def check_ground(state: State) -> Outcome:
    """Never jump without ground to return to; a first release has none."""
    slot, update, state = ground_of(state), state.update, state._replace(sound="")
    if update.origin == "rollback" and slot != update.slot:
        detail = "the release to go back to is no longer the previous one"
        failed = update._replace(phase="failed", reason="update.no_previous", detail=detail)
        return proceed(state._replace(update=failed))
    return (state._replace(job="verify"), (Verify(slot),)) if slot else call_hooks(state, "pre-swap")


def swap(state: State) -> Outcome:
    """Ask the launcher, if the world is still as it was when the ground was re-hashed."""
    update = state.update
    if runs(state, update.slot):  # a fallback brought it back meanwhile
        return proceed(committed(state))
    if state.sound != ground_of(state):
        return check_ground(state)
    return state._replace(update=update._replace(phase="swapping")), (swap_request(update),)


def swap_request(update: Update) -> Request:
    """The line for the launcher."""
    return Request("rollback" if update.origin == "rollback" else f"swap {update.slot} {update.attempt}")
