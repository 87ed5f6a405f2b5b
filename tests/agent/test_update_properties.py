"""The update state machine against a whole small world: worker, launcher, hooks, journal, orders in any sequence, and
an end of the agent (kill -9, power cut) before its journal, after it, and between its actions.

What must hold whatever happens: only whole, unspent slots are swapped to, after the ground was re-hashed and the hooks
agreed; success is claimed only when boot/state says so; every step is in the table of update.py; and when the world
calms down, the device runs what it was told last.
"""

from typing import Any, Literal

from beamfleet_agent import moves
from beamfleet_agent.journal import Ledger, decode, encode
from beamfleet_agent.update import step
from beamfleet_agent.update_state import (
    FINAL,
    MAX_SPENT,
    PENDING,
    PHASES,
    POINTS,
    Ground,
    Release,
    State,
    known,
)  # fmt: skip
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.agent import update_table

SCHEMAS = {"a": 1, "b": 2, "c": 2, "d": -1}
RELEASES = {x: Release(x * 64, "gateway", f"1.0.{ord(x) - 97}", data_schema=schema) for x, schema in SCHEMAS.items()}
FOREVER = 1 << 30
STEPS = st.integers(0, 12)
Death = Literal["", "before the journal", "after the journal", "between the actions"]
DEATHS = st.sampled_from(("", "", "", "before the journal", "after the journal", "between the actions"))


class World(RuleBasedStateMachine):
    """One device. The launcher here does what the launcher's README promises, no more."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State(salt="gw-1")
        self.journal = encode(self.state, Ledger())
        self.alive = True
        self.ground = Ground()
        self.slots: set[str] = set()
        self.requests: list[str] = []
        self.job: moves.Action | None = None
        self.hook: moves.Hook | None = None
        self.agreed: set[tuple[str, str, int]] = set()
        self.ever_spent: set[tuple[str, int]] = set()
        self.may_proceed = False
        self.watching: moves.Watch | None = None
        self.retry = False
        self.hashed: set[str] = set()
        self.documents: dict[str, moves.Checked | None] = {}
        self.last: tuple[str, moves.Checked] | None = None
        self.sequence = 0

    # --- the agent

    def apply(self, event: moves.Event, dies: Death = "") -> None:
        """As agent.py does it: decide, journal, act; `dies` somewhere in between."""
        before = self.state
        self.state, actions = step(before, event)
        update_table.check(before, event, self.state, actions)
        if dies == "before the journal":
            self.kill()
            return
        self.journal = encode(self.state, Ledger())
        self.ever_spent |= set(self.state.spent)
        if self.state.update.phase != "trial":
            self.watching = None
        if dies == "after the journal":
            self.kill()
            return
        for action in actions:
            self.act(action)
            if dies:
                self.kill()
                return

    def act(self, action: moves.Action) -> None:
        match action:
            case moves.Check() | moves.Stage() | moves.Verify():
                assert self.job is None, "one worker at a time"
                self.job, self.may_proceed = action, False
            case moves.Proceed():
                assert isinstance(self.job, moves.Check | moves.Stage)
                self.check_agreed("pre-download")
                self.may_proceed = True
            case moves.Hook():
                assert action.point in POINTS
                assert (action.slot, action.attempt) == (self.state.update.slot, self.state.update.attempt)
                assert (self.job is None) == (action.point == "pre-swap"), "only before a download a worker waits"
                self.hook = action
            case moves.Cancel():
                self.job, self.may_proceed, self.hook, self.retry = None, False, None, False
            case moves.Request(line):
                self.requests.append(line)
                self.check_request(line)
            case moves.Watch():
                self.watching = action
            case moves.Retry(after_s):
                assert 0 < after_s <= 600
                self.retry = True
            case moves.Tell():
                pass

    def check_request(self, line: str) -> None:
        verb, *words = line.split()
        if verb == "swap":
            assert words[0] in self.slots, "only a whole slot is swapped to"
            spent = self.ever_spent if len(self.ever_spent) <= MAX_SPENT else set(self.state.spent)
            assert (words[0], int(words[1])) not in spent, "what failed is not tried again"
            assert not self.ground.slot or self.ground.slot in self.hashed, "the ground is re-hashed before a swap"
            self.check_agreed("pre-swap")
            self.check_schema(words[0])
        if verb == "rollback" and self.ground.phase != "trial":
            self.check_agreed("pre-swap")
            self.check_schema(self.ground.previous)
        if verb == "confirm":
            assert self.state.update.phase == "trial"

    def check_schema(self, slot: str) -> None:
        here, update = known(self.state, self.ground.slot), self.state.update  # None: the journal was lost
        lower = here is not None and SCHEMAS[slot[0]] < here.data_schema
        assert not lower or update.forced or update.origin == "file", "a lower schema only by force"

    def check_agreed(self, point: str) -> None:
        asked = (point, self.state.update.slot, self.state.update.attempt)
        assert asked in self.agreed, "the hooks have agreed, in this life of the agent"

    def kill(self) -> None:
        """kill -9: the worker dies with the agent, memory is gone, the journal stays."""
        self.alive, self.job, self.may_proceed, self.watching, self.retry = False, None, False, None, False
        self.hook, self.agreed, self.hashed = None, set(), set()

    def boot_changed(self) -> None:
        if self.alive:
            self.apply(moves.BootChanged(self.ground))

    # --- orders

    @initialize(runs=st.booleans())
    def the_device_may_run_something(self, runs: bool) -> None:
        if runs:
            self.slots.add(RELEASES["a"].slot)
            self.ground = Ground(RELEASES["a"].slot, "", "committed", 1, "update")
            self.apply(moves.Started(self.ground, frozenset(self.slots)))

    @precondition(lambda self: self.alive)
    @rule(letter=st.sampled_from("abcd"), attempt=st.integers(1, 3), dies=DEATHS, then=STEPS)
    def an_assignment_comes(self, letter: str, attempt: int, dies: Death, then: int, age: int = 0) -> None:
        self.sequence += 1
        sequence = max(1, self.sequence + age)
        document = f"{letter}{attempt}#{self.sequence}"
        checked = moves.Checked(sequence, attempt, RELEASES[letter], forced=attempt == 3)
        self.documents[document] = checked
        if age == 0:
            self.last = (document, checked)
        self.apply(moves.Assigned(document), dies)
        self.things_go_well(then)

    @precondition(lambda self: self.alive and self.sequence > 1)
    @rule(letter=st.sampled_from("abcd"), then=STEPS)
    def an_old_assignment_comes(self, letter: str, then: int) -> None:
        self.an_assignment_comes(letter, 1, "", then, age=-self.sequence)

    @precondition(lambda self: self.alive)
    @rule(then=STEPS)
    def a_hold_comes(self, then: int) -> None:
        self.sequence += 1
        document = f"hold#{self.sequence}"
        checked = moves.Checked(self.sequence, 1, None)
        self.documents[document] = checked
        self.last = (document, checked)
        self.apply(moves.Assigned(document))
        self.things_go_well(then)

    @precondition(lambda self: self.alive and self.state.update.phase != "idle")
    @rule()
    def garbage_comes(self) -> None:
        self.documents["garbage"] = None
        self.apply(moves.Assigned("garbage"))

    @precondition(lambda self: self.alive and self.last is not None and self.state.update.phase != "idle")
    @rule()
    def the_broker_repeats_itself(self) -> None:
        assert self.last is not None
        self.apply(moves.Assigned(self.last[0]))

    @precondition(lambda self: self.alive)
    @rule(letter=st.sampled_from("abcd"), then=STEPS)
    def somebody_installs_a_file(self, letter: str, then: int) -> None:
        self.apply(moves.Install(f"/stick/{letter}"))
        self.things_go_well(then)

    @precondition(lambda self: self.alive and self.ground.previous)
    @rule(forced=st.booleans(), then=STEPS)
    def somebody_rolls_back(self, forced: bool, then: int) -> None:
        self.apply(moves.Rollback(forced))
        self.things_go_well(then)

    # --- the worker

    @precondition(lambda self: self.alive and self.job is not None and not self.waits)
    @rule(dies=DEATHS)
    def the_worker_gets_on(self, dies: Death) -> None:
        match self.job:
            case moves.Check(document) if not self.may_proceed:
                checked = self.documents[document]
                if checked is None:
                    self.job = None
                    self.apply(moves.Failed("assignment.signature", "not signed"), dies)
                else:
                    self.apply(checked, dies)
            case moves.Check(document):
                checked = self.documents[document]
                assert checked is not None
                assert checked.release is not None
                self.finish(checked.release, dies)
            case moves.Stage(path) if not self.may_proceed:
                self.apply(moves.Checked(0, 0, RELEASES[path[-1]]), dies)
            case moves.Stage(path):
                self.finish(RELEASES[path[-1]], dies)
            case moves.Verify(slot):
                self.job = None
                self.hashed.add(slot)
                self.apply(moves.Sound(RELEASES[slot[0]]), dies)

    def finish(self, release: Release, dies: Death) -> None:
        self.apply(moves.Verified(release))
        self.job, self.may_proceed = None, False
        keep = {self.ground.slot, self.ground.previous}
        self.slots = {slot for slot in self.slots if slot in keep} | {release.slot}
        self.apply(moves.Staged(release), dies)

    @precondition(lambda self: self.alive and self.job is not None)
    @rule(patience=st.sampled_from([0, 2, FOREVER]))
    def the_worker_fails(self, patience: int) -> None:
        self.job, self.may_proceed = None, False
        self.apply(moves.Failed("worker.some", "something", patience))

    @precondition(lambda self: self.alive and self.retry)
    @rule()
    def a_pause_ends(self) -> None:
        self.retry = False
        self.apply(moves.RetryDue())

    @property
    def waits(self) -> bool:
        """Whether the worker waits for our word, and we for the hooks."""
        return self.state.job == "pre-download"

    # --- the launcher

    @precondition(lambda self: self.alive and self.hook is not None)
    @rule(status=st.sampled_from([0, 0, 0, 21, 21, 1, -1]), dies=DEATHS)
    def the_hooks_end(self, status: int, dies: Death) -> None:
        hook = self.hook
        assert hook is not None
        self.hook = None
        forced = self.state.update.origin == "assignment" and self.state.update.forced
        if (status == 0 or (status == 21 and forced)) and self.state.job == hook.point:
            self.agreed.add((hook.point, hook.slot, hook.attempt))
        self.apply(moves.Hooked(hook.point, hook.slot, hook.attempt, status, "10-check", "said something"), dies)

    @precondition(lambda self: self.alive and self.state.update.phase != "idle")
    @rule(point=st.sampled_from(sorted(POINTS)), attempt=st.integers(7, 9))
    def hooks_end_that_nobody_waits_for(self, point: str, attempt: int) -> None:
        before = self.state
        self.apply(moves.Hooked(point, self.state.update.slot, attempt, 0))
        assert self.state == before

    @precondition(lambda self: self.requests)
    @rule()
    def the_launcher_takes_a_request(self) -> None:
        verb, *words = self.requests.pop(0).split()
        ground, refused = self.ground, ""
        on_trial = ground.phase == "trial"
        match verb, words:
            case "swap", [slot, attempt]:
                if on_trial:
                    refused = "" if (slot, int(attempt)) == (ground.slot, ground.attempt) else "trial_running"
                elif slot not in self.slots:
                    refused = "no_such_slot"
                elif (ground.failed_slot, ground.failed_attempt) == (slot, int(attempt)):
                    refused = "" if ground.failed_cause == "unconfirmed" else "reverted"
                if not refused and not on_trial and slot != ground.slot:
                    self.swap(slot, int(attempt), "update")
            case "confirm", [slot, attempt]:
                if (slot, int(attempt)) != (ground.slot, ground.attempt):
                    refused = "not_running"
                elif on_trial:
                    self.ground = ground._replace(phase="committed")
            case "rollback", _:
                if on_trial:
                    self.revert("operator")
                elif ground.previous:
                    self.swap(ground.previous, 0, "rollback")
                else:
                    refused = "no_previous"
        self.boot_changed()
        if refused and self.alive and self.hook is None:  # only the newest request's refusal is heard
            self.apply(moves.Refused(refused))

    def swap(self, slot: str, attempt: int, cause: str) -> None:
        self.ground = self.ground._replace(
            slot=slot, previous=self.ground.slot, phase="trial", attempt=attempt, cause=cause
        )

    def revert(self, cause: str) -> None:
        ground = self.ground
        self.ground = Ground(
            ground.previous, "", "reverted", ground.attempt, "revert", ground.slot, ground.attempt, cause
        )

    @precondition(lambda self: self.ground.phase == "trial")
    @rule(cause=st.sampled_from(["crash", "deadline", "unconfirmed"]))
    def a_trial_fails(self, cause: str) -> None:
        self.revert(cause)
        self.boot_changed()

    @precondition(lambda self: self.ground.phase == "committed" and self.ground.previous)
    @rule()
    def a_committed_release_falls_back(self) -> None:
        ground = self.ground
        self.ground = Ground(
            ground.previous, ground.slot, "fallback", ground.attempt, "fallback", ground.slot, ground.attempt, "crash"
        )
        self.boot_changed()

    @precondition(lambda self: self.alive and self.watching is not None)
    @rule(well=st.booleans())
    def the_trial_shows_something(self, well: bool) -> None:
        watching = self.watching
        assert watching is not None
        assert watching.release.slot == watching.slot
        self.apply(moves.Observed("", "") if well else moves.Observed("health", "not running: gateway"))
        if well:
            self.watching = None
            self.apply(moves.Proven())

    @precondition(lambda self: self.requests or self.job or self.watching or self.hook)
    @rule(steps=STEPS)
    def things_go_well(self, steps: int) -> None:
        for _ in range(steps):
            if not self.go_on():
                break

    def go_on(self) -> bool:
        """One step of what is under way; False when nothing is."""
        if self.requests:
            self.the_launcher_takes_a_request()
        elif self.alive and self.hook is not None:
            self.the_hooks_end(0, "")
        elif self.alive and self.job is not None:
            self.the_worker_gets_on("")
        elif self.alive and self.retry:
            self.a_pause_ends()
        elif self.alive and self.watching is not None:
            self.the_trial_shows_something(True)
        else:
            return False
        return True

    # --- the end of the agent, and its return

    @precondition(lambda self: self.alive)
    @rule()
    def the_agent_is_killed(self) -> None:
        self.kill()

    @precondition(lambda self: not self.alive)
    @rule(dies=DEATHS, journal_is_lost=st.sampled_from([False, False, False, True]))
    def the_agent_starts(self, dies: Death, journal_is_lost: bool) -> None:
        remembered = None if journal_is_lost else decode(self.journal)
        self.ever_spent = set() if journal_is_lost else self.ever_spent
        self.state = (remembered[0] if remembered else State())._replace(salt="gw-1")
        self.alive = True
        self.apply(moves.Started(self.ground, frozenset(self.slots)), dies)

    # --- what must hold

    @invariant()
    def what_is_claimed_is_what_boot_state_says(self) -> None:
        if self.alive:
            assert self.state.ground == self.ground
            update = self.state.update
            if update.phase == "trial":
                assert self.ground.phase == "trial"
                assert (update.slot, update.attempt) == (self.ground.slot, self.ground.attempt)
            if self.ground.phase == "trial":
                assert update.phase == "trial"
            if update.phase == "committed":
                assert self.ground.slot == update.slot

    @invariant()
    def the_state_is_well_formed_and_survives_the_journal(self) -> None:
        assert self.state.update.phase in PHASES
        assert len(self.state.spent) <= 16
        remembered = decode(encode(self.state, Ledger()))
        assert remembered is not None
        fields: dict[str, Any] = self.state._asdict()
        keys = ("update", "offered", "accepted", "sequence", "spent", "releases", "floors", "director", "done")
        durable = {key: fields[key] for key in keys}
        assert {key: remembered[0]._asdict()[key] for key in durable} == durable

    @invariant()
    def an_unfinished_update_is_always_going_somewhere(self) -> None:
        if not self.alive:
            return
        update = self.state.update
        assert self.state.job not in POINTS or self.hook is not None
        assert (self.state.job not in ("", "pre-swap")) == (self.job is not None)
        if update.phase in PENDING:
            assert self.job is not None or self.retry or self.state.job in POINTS
        if update.phase == "swapping":
            assert self.requests
        if update.phase == "trial":
            unknown = known(self.state, update.slot) is None  # its slot is damaged: the launcher will end it
            assert self.watching or self.job or self.requests or self.retry or update.reason or unknown

    def teardown(self) -> None:
        """Calm weather: the device must come to rest on what it was told last."""
        if not self.alive:
            self.the_agent_starts("", False)
        told = None
        if self.last is not None:
            told = self.last[1]
            self.apply(moves.Assigned(self.last[0]))
        for _ in range(90):
            if not self.go_on():
                if self.ground.phase != "trial":
                    break
                self.a_trial_fails("unconfirmed")
        assert self.state.update.phase in FINAL, self.state.update
        assert not self.state.offered
        assert self.ground.phase != "trial"
        if told is not None and self.state.update.sequence == told.sequence and self.state.update.phase == "committed":
            assert told.release is not None
            assert self.ground.slot == told.release.slot


World.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestWorld = World.TestCase
