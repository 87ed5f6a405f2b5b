"""Owns what boot/state's word does to an update: its trial, its commit, its revert, a refusal. Pure; see update.py.

The launcher's word beats everything that was believed before; nothing here claims what it does not say.
"""

from beamfleet_agent.course import Outcome, proceed, retry_after, watch
from beamfleet_agent.moves import Action, Cancel, Retry
from beamfleet_agent.update_state import (
    MAX_SPENT,
    PENDING,
    SWAPPED,
    State,
    Update,
    commit_floor,
    committed,
    known,
    named,
    runs,
    spend,
)  # fmt: skip

NO_EVIDENCE = {
    "unconfirmed": "nobody confirmed the trial in time",
    "power": "the power failed too often during the trial",
    "uncounted": "the disk did not take the count of a start",
}
"""Causes of a revert that say nothing about the release: what happened, in words."""


def follow(state: State) -> Outcome:
    """What boot/state says, applied to the update."""
    update, ground = state.update, state.ground
    ours = (update.slot, update.attempt) == (ground.slot, ground.attempt)
    failed = (update.slot, update.attempt) == (ground.failed_slot, ground.failed_attempt)
    if update.origin == "rollback" and update.phase == "swapping":
        failed = False  # its attempt is always 0: this may be an older one
    if ground.phase == "trial":
        return _on_trial(state, ours)
    fell = ground.phase == "fallback" and ground.failed_slot == update.slot != ground.slot
    if update.phase == "committed" and fell:
        detail = "the committed release failed too many boots in a row"
        fallen = update._replace(phase="reverted", reason="fallback", detail=detail)
        return proceed(spend(state._replace(update=fallen)))
    evidence = ground.failed_cause not in NO_EVIDENCE and update.origin != "rollback"
    if update.phase == "staged" and failed and evidence:  # an earlier life asked for the swap, and it is over
        cancel: tuple[Action, ...] = (Cancel(),) if state.job else ()
        state, actions = proceed(_reverted(state._replace(job=""), ground.failed_cause))
        return state, (*cancel, *actions)
    if update.phase not in SWAPPED:
        return state, ()
    if (ground.phase == "committed" and ours) or (update.phase == "swapping" and runs(state, update.slot)):
        release = known(state, update.slot)
        if release is not None:
            state = commit_floor(state, release)
        return proceed(committed(state))
    if failed:
        return proceed(_reverted(state, ground.failed_cause))
    if update.phase == "trial":  # its end was not recorded: boot/state was damaged and re-made
        return proceed(_reverted(state, ground.cause or "unknown"))
    return state, ()


def remember_failure(state: State) -> State:
    """The launcher's own memory of the newest release that did not stay: a journal that was lost learns it again."""
    ground = state.ground
    pair = (ground.failed_slot, ground.failed_attempt)
    if not all(pair) or pair in state.spent or ground.failed_cause in NO_EVIDENCE:
        return state
    return state._replace(spent=(*state.spent, pair)[-MAX_SPENT:])


def refused(state: State, reason: str) -> Outcome:
    """The launcher took our request, and will not."""
    update = state.update
    if update.phase == "trial":
        return watch(state)
    if update.phase != "swapping":
        return state, ()
    if reason == "trial_running":
        tries = state.tries + 1
        waiting = update._replace(phase="staged", reason="update.refused", detail=reason)
        return state._replace(update=waiting, tries=tries), (Retry(retry_after(tries, state.salt)),)
    detail = f"the launcher refused the swap: {reason}"
    failed = update._replace(phase="failed", reason="update.refused", detail=detail)
    return proceed(spend(state._replace(update=failed)))


def _on_trial(state: State, ours: bool) -> Outcome:
    update = state.update
    if ours and update.phase == "trial":
        return state, ()
    cancel: tuple[Action, ...] = ()
    if update.phase not in SWAPPED or not ours:
        cancel = (Cancel(),) if state.job else ()
        state = state._replace(job="")
    if not ours or update.phase not in SWAPPED | {"staged"}:
        state = _adopt(state)
    entered = state.update._replace(phase="trial", reason="", detail="")
    state, actions = watch(state._replace(update=entered, tries=0))
    return state, (*cancel, *actions)


def _adopt(state: State) -> State:
    """A trial that we did not ask for, or no longer know of, runs: follow it; what was under way is looked at later."""
    ground, release = state.ground, known(state, state.ground.slot)
    origin = "rollback" if ground.cause == "rollback" else "device"
    found = Update("trial", ground.slot, "", "", "", ground.attempt, 0, origin)
    if release is not None:
        found = named(found, release)
    unfinished = state.update.origin == "assignment" and state.update.phase in PENDING | {"swapping"}
    return state._replace(update=found, offered=state.offered or (state.accepted if unfinished else ""))


def _reverted(state: State, cause: str) -> State:
    update, ground = state.update, state.ground
    if cause in NO_EVIDENCE and not update.reason:
        return state._replace(update=update._replace(phase="reverted", reason=cause, detail=NO_EVIDENCE[cause]))
    if cause not in NO_EVIDENCE:  # else we watched, and saw why
        said = ground.detail if ground.cause == "revert" else ""
        update = update._replace(reason=cause, detail="" if cause == "operator" else said or update.detail)
    return spend(state._replace(update=update._replace(phase="reverted")))
