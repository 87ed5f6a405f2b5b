"""The update state machine: pure `(state, event) -> (state, actions)`. Knows no I/O, no clock, no randomness.

The agent feeds events, writes the journal when the durable part of the state changed, and only then performs the
actions. The launcher's word (`Ground`, what boot/state says) beats everything that this machine believed before.

    idle ─> downloading ─> verified ─> staged ─> swapping ─> trial ─> committed | reverted          any ─> failed

`course.py` has the next step of what is unfinished, `following.py` what the launcher's word does to an update.

What each event leads to (a test holds every step to this). `=` is the phase before; the actions are those that may be
given. final: idle committed reverted failed; pending: downloading verified staged; swapped: swapping trial. In
`downloading` the hooks of pre-download come before the worker may fetch, in `staged` those of pre-swap between the
re-hashed ground and the swap:

| event       | in                     | becomes                                | actions                              |
|-------------|------------------------|----------------------------------------|--------------------------------------|
| Started     | final                  | = trial reverted                       | Watch Check Verify                   |
| Started     | downloading verified   | = downloading trial                    | Watch Check Stage Verify             |
| Started     | staged                 | = downloading trial failed reverted    | Watch Check Stage Verify Hook        |
| Started     | swapping               | staged trial committed reverted failed | Watch Check Verify Hook              |
| Started     | trial                  | = committed reverted                   | Watch Check Verify                   |
| Assigned    | final pending          | =                                      | Cancel Check                         |
| Assigned    | swapped                | =                                      | -                                    |
| Checked     | final pending          | = downloading committed failed idle    | Hook Cancel Tell Check Stage Verify  |
| Checked     | swapped                | =                                      | -                                    |
| Hooked      | downloading            | = failed                               | Proceed Cancel Retry Check           |
| Hooked      | staged                 | = swapping committed failed            | Request Verify Hook Retry Check      |
| Hooked      | final verified swapped | =                                      | -                                    |
| Verified    | downloading            | = verified                             | -                                    |
| Verified    | final swapped          | =                                      | -                                    |
| Verified    | verified staged        | =                                      | -                                    |
| Staged      | downloading verified   | = staged committed                     | Verify Hook Check                    |
| Staged      | final staged swapped   | =                                      | Check                                |
| Sound       | staged                 | = committed failed                     | Hook Verify Check                    |
| Sound       | trial                  | =                                      | Watch                                |
| Sound       | final swapping         | =                                      | Check                                |
| Sound       | downloading verified   | =                                      | Check                                |
| Failed      | pending                | = failed                               | Retry Tell Check Stage Verify Hook   |
| Failed      | final swapped          | =                                      | Retry Tell Check                     |
| RetryDue    | final                  | =                                      | Check                                |
| RetryDue    | pending                | = downloading failed                   | Check Stage Verify Hook              |
| RetryDue    | swapping               | =                                      | -                                    |
| RetryDue    | trial                  | =                                      | Watch Verify                         |
| BootChanged | final                  | = trial reverted                       | Cancel Watch Verify Check            |
| BootChanged | pending                | = trial reverted                       | Cancel Watch Verify Check            |
| BootChanged | swapping               | = trial committed reverted             | Cancel Watch Verify Check            |
| BootChanged | trial                  | = committed reverted                   | Cancel Watch Verify Check            |
| Refused     | swapping               | staged failed                          | Retry Check                          |
| Refused     | trial                  | =                                      | Watch Cancel Verify                  |
| Refused     | downloading staged     | = failed                               | Cancel Check                         |
| Refused     | final verified         | =                                      | -                                    |
| Observed    | any                    | =                                      | -                                    |
| Proven      | trial                  | =                                      | Request                              |
| Commit      | trial                  | =                                      | Request                              |
| Proven      | final pending swapping | =                                      | -                                    |
| Commit      | final pending swapping | =                                      | -                                    |
| Install     | final pending          | downloading                            | Cancel Stage                         |
| Install     | swapped                | =                                      | -                                    |
| Rollback    | final pending          | = staged                               | Cancel Verify                        |
| Rollback    | swapping               | =                                      | Request                              |
| Rollback    | trial                  | =                                      | Request                              |

What a restart (power cut, kill -9) in each phase leads to; the journal and boot/state say where we were:

| phase       | event Started does                                                                                     |
|-------------|--------------------------------------------------------------------------------------------------------|
| downloading | staging/ has been emptied: checked, hooks, fetched again (a whole slot is kept)                        |
| verified    | the same                                                                                               |
| staged      | the ground is re-hashed, hooks, then the swap is asked for; without its slot: fetched again            |
| swapping    | boot/state shows the trial or its end: follow it; else as staged (the launcher takes a request once)   |
| trial       | boot/state still shows it: watch from the start of the trial period again; else its end counts         |
| final       | kept; an assignment that came in meanwhile is checked                                                  |

Quarantine: (slot id, attempt) of what reverted or failed is `spent` and not tried again. A revert that says nothing
about the release (`unconfirmed`, `power`, `uncounted`, and the agent had nothing against it) spends nothing.

What was carried out (`done`) is not carried out again in the same attempt: what runs since then was chosen here. A
lower data_schema than what runs is refused, of an assignment and of a rollback, unless forced; it spends nothing.
"""

from typing import assert_never

from beamfleet_agent.course import (
    Outcome,
    call_hooks,
    called,
    check_ground,
    ground_of,
    proceed,
    resume,
    retry_after,
    watch,
)
from beamfleet_agent.following import follow, refused, remember_failure
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
    Hooked,
    Install,
    Observed,
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
)  # fmt: skip
from beamfleet_agent.update_state import (
    PENDING,
    POINTS,
    SWAPPED,
    Release,
    State,
    Update,
    committed,
    director_replaced,
    known,
    named,
    remember,
    runs,
    spend,
)  # fmt: skip


def step(state: State, event: Event) -> Outcome:  # noqa: C901 - one line for each event
    """The next state, and what to do once it is in the journal."""
    match event:
        case Started(ground, slots):
            return _started(state._replace(ground=ground, job="", sound="", tries=0, refused=""), slots)
        case Assigned(document):
            return _assigned(state, document)
        case Checked():
            return _checked(state, event)
        case Hooked():
            return _hooked(state, event)
        case Verified(release):
            return _move(state, "downloading", "verified", release), ()
        case Staged(release):
            return _staged(state._replace(job=""), release)
        case Sound(release):
            return _sound(state._replace(job=""), release) if state.job == "verify" else (state, ())
        case Failed():
            return _failed(state._replace(job=""), state.job, event)
        case RetryDue():
            return resume(state) if not state.job else (state, ())
        case BootChanged(ground):
            return follow(state._replace(ground=ground))
        case Refused(reason):
            return _refused(state, reason)
        case Observed(reason, detail):
            return _observed(state, reason, detail)
        case Proven() | Commit():
            asked = (Request(f"confirm {state.update.slot} {state.update.attempt}"),)
            return state, asked if state.update.phase == "trial" else ()
        case Install(path):
            return _install(state, path)
        case Rollback(forced):
            return _rollback(state, forced)
        case _:
            assert_never(event)


def lower_schema(state: State, slot: str) -> str:
    """Why going to this slot must be forced: the words, or "" if its release takes the data as it is."""
    here, there = known(state, state.ground.slot), known(state, slot)
    if here is None or there is None or there.data_schema >= here.data_schema:
        return ""
    stated = f"states data_schema {there.data_schema}" if there.data_schema >= 0 else "states no data_schema"
    return f"{there.product} {there.version} {stated}, the running {here.version} has {here.data_schema}"


# --- one function for each event that takes more than a line


def _started(state: State, slots: frozenset[str]) -> Outcome:
    state = remember_failure(state)
    update = state.update
    if update.phase == "staged" and update.slot not in slots:
        state = state._replace(update=update._replace(phase="downloading"))
    elif update.phase == "trial":
        state = state._replace(update=update._replace(reason="", detail=""))
    before = state.update.phase
    state, actions = follow(state)
    if state.update.phase == "swapping":  # ask again, but look at the ground again first
        state = state._replace(update=state.update._replace(phase="staged"))
    if before == state.update.phase == "trial" and not actions:
        return watch(state)
    if actions or state.job:
        return state, actions
    state, actions = resume(state)
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
    if state.job == "stage" and event.release is not None:
        return _opened(state._replace(job=""), event.release)
    if state.job != "check":
        return state, ()
    document, state = state.offered or state.accepted, state._replace(job="", offered="")
    if event.sequence < state.sequence and not director_replaced(state.director, event.director):
        told = Tell("update.stale", f"assignment {event.sequence} is older than {state.sequence}")
        state, actions = resume(state)
        return state, (Cancel(), told, *actions)
    state = state._replace(accepted=document, sequence=event.sequence, director=event.director)
    update, release = state.update, event.release
    if release is None:
        return state._replace(update=_set_aside(update, event.sequence, reason="hold")), (Cancel(),)
    again = (update.slot, update.attempt) == (release.slot, event.attempt)
    wanted = Update(
        "downloading", release.slot, release.manifest, release.product, release.version, event.attempt, event.sequence,
        "assignment", forced=event.forced, trace=event.trace,
    )  # fmt: skip
    if again and update.put_off:  # it waits on, and says for what
        wanted = wanted._replace(reason=update.reason, detail=update.detail, put_off=update.put_off)
    if (release.slot, event.attempt) in state.spent:
        if not again or update.phase in PENDING:
            text = f"{release.product} {release.version} did not stay in attempt {event.attempt}"
            update = wanted._replace(phase="failed", reason="update.quarantined", detail=text)
        return state._replace(update=update), (Cancel(),)
    if runs(state, release.slot):
        return committed(state._replace(update=wanted)), (Cancel(),)
    if (release.slot, event.attempt) == state.done:  # signed again; a person has chosen something else since then
        return state._replace(update=_set_aside(update, event.sequence, reason="update.done")), (Cancel(),)
    if not event.forced and (lower := lower_schema(state, release.slot)):
        update = wanted._replace(phase="failed", reason="update.lower_schema", detail=lower, put_off=0)
        return state._replace(update=update), (Cancel(),)
    return call_hooks(state._replace(update=wanted), "pre-download")


def _set_aside(update: Update, sequence: int, reason: str) -> Update:
    """What has not swapped is given up; what has ended stays as it ended."""
    return Update("idle", sequence=sequence, origin="assignment", reason=reason) if update.phase in PENDING else update


def _opened(state: State, release: Release) -> Outcome:
    """A bundle file names its release; a person asks, so that it gets an attempt of its own."""
    state = state._replace(update=_attempted(state, release))
    if runs(state, release.slot):
        state, actions = proceed(committed(state))
        return state, (Cancel(), *actions)
    return call_hooks(state, "pre-download")


def _hooked(state: State, event: Hooked) -> Outcome:
    wanted = (state.job, state.update.slot, state.update.attempt)
    if state.job not in POINTS or wanted != (event.point, event.slot, event.attempt):
        return state, ()
    return called(state, event)


def _staged(state: State, release: Release) -> Outcome:
    update = state.update
    if update.origin == "file" and update.phase == "downloading":
        state = _move(state, "downloading", "verified", release)
        update = state.update
    if update.phase not in ("downloading", "verified") or update.slot != release.slot:
        return proceed(state)
    state = remember(state, release)
    if runs(state, release.slot):
        return proceed(committed(state))
    return check_ground(state._replace(update=update._replace(phase="staged", reason="", detail=""), tries=0))


def _sound(state: State, release: Release) -> Outcome:
    state = remember(state, release)
    update = named(state.update, release) if state.update.slot == release.slot else state.update
    state = state._replace(update=update)
    if update.phase == "trial":
        return watch(state)
    if update.phase != "staged":
        return proceed(state)
    if runs(state, update.slot):  # a fallback brought it back meanwhile
        return proceed(committed(state))
    if release.slot != ground_of(state):
        return check_ground(state)
    asks = update.origin in ("assignment", "rollback") and not update.forced
    if asks and (lower := lower_schema(state, update.slot)):
        failed = update._replace(phase="failed", reason="update.lower_schema", detail=lower)
        return proceed(state._replace(update=failed))
    return call_hooks(state._replace(sound=release.slot), "pre-swap")


def _failed(state: State, job: str, event: Failed) -> Outcome:
    tries = state.tries + 1
    if tries <= event.patience:
        if state.update.phase in PENDING:
            state = state._replace(update=state.update._replace(reason=event.code, detail=event.message))
        return state._replace(tries=tries), (Retry(retry_after(tries, state.salt)),)
    told, state = Tell(event.code, event.message), state._replace(tries=0)
    if job == "check" and state.offered:  # a newer assignment that is no good: go on as before it came
        state, actions = resume(state._replace(refused=state.offered, offered=""))
        return state, (told, *actions)
    if state.update.phase not in PENDING:
        state, actions = proceed(state)
        return state, (told, *actions)
    state = state._replace(update=state.update._replace(phase="failed", reason=event.code, detail=event.message))
    return proceed(state if job == "check" else spend(state))


def _refused(state: State, reason: str) -> Outcome:
    if state.job not in POINTS:
        return refused(state, reason)
    slot, attempt = state.update.slot, state.update.attempt
    return called(state, Hooked(state.job, slot, attempt, -1, output=f"the launcher refused: {reason}"))


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


def _rollback(state: State, forced: bool) -> Outcome:
    ground = state.ground
    if ground.phase == "trial":
        return state, (Request("rollback"),)
    if state.update.phase in SWAPPED or not ground.previous:
        return state, ()
    cancel: tuple[Action, ...] = (Cancel(),) if state.job else ()
    wanted = Update("staged", ground.previous, origin="rollback", forced=forced)
    release = known(state, ground.previous)
    if release is not None:
        wanted = named(wanted, release)
    state, actions = check_ground(state._replace(update=wanted, job="", tries=0))
    return state, (*cancel, *actions)


def _move(state: State, before: str, after: str, release: Release) -> State:
    """`before` becomes `after`, if it is this release's."""
    update = state.update
    if update.phase != before or (update.slot and update.slot != release.slot):
        return state
    return state._replace(update=_attempted(state, release)._replace(phase=after, reason="", detail=""))


def _attempted(state: State, release: Release) -> Update:
    """The update with its release and attempt; the first that was not spent, when nobody has given one."""
    update = state.update
    attempt = update.attempt if update.slot == release.slot else 0
    attempt = attempt or 1 + max((tried for slot, tried in state.spent if slot == release.slot), default=0)
    return named(update._replace(slot=release.slot, attempt=attempt), release)
