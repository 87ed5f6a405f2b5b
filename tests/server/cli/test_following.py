"""The loop that waits for a rollout, against a scripted HTTPS server that goes away and comes back."""

import io
import signal
import subprocess
from collections.abc import Iterator

import pytest
from beamfleet_server.cli.contexts import Contexts
from beamfleet_server.cli.errors import CommandError, RemoteError
from beamfleet_server.cli.following import conclude, follow
from beamfleet_server.cli.output import Output
from beamfleet_server.cli.progress import Lines

from tests.server.cli.api_script import TOKEN, Answer, ScriptedApi, problem
from tests.server.cli.terminal import COMMAND, Operator, clean_environment, lines
from tests.server.cli.test_progress import device, rollout


class Time:
    """A clock that moves when somebody pauses."""

    def __init__(self) -> None:
        self.now = 0.0

    def pause(self, seconds: float) -> None:
        self.now += seconds

    def clock(self) -> float:
        return self.now


RUNNING = Answer(rollout(device("a", "trial")))


@pytest.mark.parametrize(("state", "code"), [("completed", 0), ("halted", 3), ("aborted", 4), ("expired", 5)])
def test_the_exit_code_says_how_the_rollout_ended(api: ScriptedApi, state: str, code: int) -> None:
    time, stream = Time(), io.StringIO()
    api.script(RUNNING, RUNNING, Answer(rollout(device("a", "committed"), state=state, phase="done")))
    ended, exit_code = follow(api.client(time.pause, time.clock), 7, Lines(stream), pause=time.pause, clock=time.clock)
    assert (exit_code, ended["state"]) == (code, state)
    assert api.paths == ["/api/v1/rollouts/7?devices=100"] * 3


def test_a_pause_and_a_gate_are_said_once_each_and_waited_out(api: ScriptedApi) -> None:
    time, stream = Time(), io.StringIO()
    paused = Answer(rollout(device("a", "trial"), state="paused"))
    gate = Answer({**rollout(device("a", "committed")), "gate": "waiting"})
    ended = Answer(rollout(device("a", "committed"), state="completed", phase="done"))
    api.script(RUNNING, paused, paused, RUNNING, gate, gate, ended)
    _, code = follow(api.client(time.pause, time.clock), 7, Lines(stream), pause=time.pause, clock=time.clock)
    assert code == 0
    said = [line for line in lines(stream) if "beamfleet rollout" in line]
    assert said == [
        "rollout 7: paused; beamfleet rollout resume 7 goes on",
        "rollout 7: canary is proven; beamfleet rollout approve 7 opens the gate to the next phase",
    ]


def test_a_large_rollout_is_asked_for_less_often(api: ScriptedApi) -> None:
    time = Time()
    large = {**rollout(device("a", "trial")), "counts": {"pending": 100_000}}
    api.script(*[Answer(large)] * 5, Answer({**large, "state": "aborted"}))
    follow(api.client(time.pause, time.clock), 7, Lines(io.StringIO()), pause=time.pause, clock=time.clock)
    assert time.now == 25


def test_a_deadline_ends_the_waiting_with_code_5(api: ScriptedApi) -> None:
    time = Time()
    api.script(*[RUNNING] * 40)
    ended, code = follow(
        api.client(time.pause, time.clock), 7, Lines(io.StringIO()), timeout_s=10, pause=time.pause, clock=time.clock
    )
    assert (code, ended["state"]) == (5, "running")
    assert time.now <= 10


def test_a_server_that_restarts_is_waited_for_and_told_of_once(api: ScriptedApi) -> None:
    time, stream = Time(), io.StringIO()
    away = [Answer(drop=True)] * 5 + [problem(503, "server.stopping")] * 2
    api.script(RUNNING, *away, Answer(rollout(device("a", "committed"), state="completed", phase="done")))
    _, code = follow(api.client(time.pause, time.clock), 7, Lines(stream), pause=time.pause, clock=time.clock)
    assert code == 0
    assert len([line for line in lines(stream) if "waiting for it" in line]) == 1
    assert lines(stream)[-2] != lines(stream)[-1]
    assert "the server answers again" in lines(stream)


def test_a_server_that_stays_away_past_the_deadline_is_a_missed_deadline(api: ScriptedApi) -> None:
    time = Time()
    api.script(RUNNING, *[Answer(drop=True)] * 60)
    client, shown = api.client(time.pause, time.clock), Lines(io.StringIO())
    last, code = follow(client, 7, shown, timeout_s=30, pause=time.pause, clock=time.clock)
    assert (code, last["state"]) == (5, "running")
    assert time.now <= 30


@pytest.mark.parametrize("seen", [[], [RUNNING]])
def test_a_server_that_never_comes_back_is_an_error_in_the_end(api: ScriptedApi, seen: list[Answer]) -> None:
    time = Time()
    api.script(*seen, *[Answer(drop=True)] * 400)
    with pytest.raises(CommandError) as gone:
        follow(api.client(time.pause, time.clock), 7, Lines(io.StringIO()), pause=time.pause, clock=time.clock)
    assert gone.value.code == "server.unreachable"


def test_a_refusal_is_not_waited_out(api: ScriptedApi) -> None:
    time = Time()
    api.script(RUNNING, problem(401, "auth.expired"))
    with pytest.raises(RemoteError) as refused:
        follow(api.client(time.pause, time.clock), 7, Lines(io.StringIO()), pause=time.pause, clock=time.clock)
    assert refused.value.code == "auth.expired"


@pytest.mark.parametrize(("code", "word"), [(3, "rollout.halted"), (4, "rollout.aborted"), (5, "rollout.deadline")])
def test_an_end_that_is_no_success_names_its_code_and_what_to_do(code: int, word: str) -> None:
    stdout, stderr = io.StringIO(), io.StringIO()
    conclude(Output(stdout, stderr), rollout(device("a", "reverted", reason="crash"), state="halted"), code)
    assert word in lines(stderr)[-2]
    assert lines(stderr)[-1].startswith("hint: ")
    assert lines(stdout) == ["rollout 7: sensor-gateway 1.1.0, halted, 1 reverted"]


def test_skipped_devices_are_named_with_their_reason() -> None:
    stderr = io.StringIO()
    ended = rollout(device("a", "committed"), device("b", "skipped", reason="no bundle for aarch64"), state="completed")
    conclude(Output(io.StringIO(), stderr), ended, 0)
    assert "skipped b: no bundle for aarch64" in lines(stderr)


@pytest.fixture
def watcher(operator: Operator, api: ScriptedApi) -> Iterator[subprocess.Popen[str]]:
    """`rollout status 7 --watch` as a child process, on a rollout that goes on for ever."""
    Contexts(operator.directory).save("berlin", api.url, TOKEN, api.ca.read_bytes())
    api.script(*[RUNNING] * 1000)
    process = subprocess.Popen(
        [str(COMMAND), "rollout", "status", "7", "--watch", "-o", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment() | {"BEAMFLEET_CONFIG_DIR": str(operator.directory)},
        text=True,
    )
    yield process
    process.kill()
    process.communicate(timeout=30)


def test_an_interrupt_says_how_to_go_on_and_leaves_the_rollout_alone(
    watcher: subprocess.Popen[str], api: ScriptedApi
) -> None:
    assert watcher.stderr
    seen = [watcher.stderr.readline() for _ in range(2)]
    assert seen[1] == "a: trial\n"
    watcher.send_signal(signal.SIGINT)
    out, err = watcher.communicate(timeout=30)
    assert (watcher.returncode, out) == (130, "")
    assert "beamfleet rollout status 7 --watch" in err
    assert "Traceback" not in err
    assert {request.method for request in api.requests} == {"GET"}


def test_of_many_that_were_skipped_some_are_named_and_the_way_to_the_others() -> None:
    stderr = io.StringIO()
    skipped = [device(f"b-{number:02}", "skipped", reason="target") for number in range(30)]
    conclude(Output(io.StringIO(), stderr), rollout(*skipped, state="completed"), 0)
    assert len(lines(stderr)) == 11
    assert lines(stderr)[-1] == "and 20 more: beamfleet rollout devices 7 --state skipped"


def test_a_rollout_that_has_expired_says_so_and_not_that_somebody_waited_too_short() -> None:
    stderr = io.StringIO()
    conclude(Output(io.StringIO(), stderr), rollout(device("a"), state="expired"), 5)
    assert "has expired" in lines(stderr)[-2]
    assert "rollout.deadline" in lines(stderr)[-2]


def test_the_reasons_of_what_went_wrong_are_told_at_the_end() -> None:
    stderr = io.StringIO()
    reasons = [{"state": "reverted", "reason": "crash", "count": 3, "example": "gw-7"}]
    conclude(
        Output(io.StringIO(), stderr), {**rollout(device("gw-7", "reverted"), state="halted"), "reasons": reasons}, 3
    )
    assert lines(stderr)[0] == "3 reverted: crash, for example gw-7"
