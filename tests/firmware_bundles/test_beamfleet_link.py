"""beamfleet_link in real VMs: what it says, and that nothing a client or a disk does reaches the release."""

import json
import os
import select
import signal
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet import wait_for

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "firmware_bundles/beamfleet_link/beamfleet_link.erl"
DEADLINE_S = 20.0
EMBEDDED = ("-noshell", "-mode", "embedded", "-boot", "start_sasl")

# Evaluates each line of stdin and answers with one line, so that a test can reach into the VM; between the answers
# stdout has whatever the VM logs.
LISTENER = """
Loop = fun(Again) ->
    case io:get_line("") of
        eof -> ok;
        Line ->
            {ok, Tokens, _} = erl_scan:string(Line),
            {ok, Expressions} = erl_parse:parse_exprs(Tokens),
            {value, Value, _} = erl_eval:exprs(Expressions, []),
            io:format("~n=> ~0tp~n", [Value]),
            Again(Again)
    end
end,
spawn(fun() -> Loop(Loop) end).
"""


def quoted(path: Path | str) -> str:
    return json.dumps(str(path))


class Vm:
    """A real VM in embedded mode whose boot ends with the launcher's caught -eval, and the launcher's FIFO."""

    def __init__(self, beam: Path, run: Path, boot: int = 1, *, socket_path: str = "", started: str = "") -> None:
        self.run, self.boot = run, boot
        self.socket = Path(socket_path or run / "link.sock")
        self.started = Path(started or run / f"started.{boot}")
        self.doorbell = run / "doorbell"
        if not self.doorbell.exists():
            os.mkfifo(self.doorbell)
        self._bell = os.open(self.doorbell, os.O_RDWR | os.O_NONBLOCK)
        options = f"socket => {quoted(self.socket)}, started => {quoted(self.started)}, boot => {boot}"
        load = f"{{module, _}} = code:load_abs({quoted(beam.with_suffix(''))})"
        start = f"beamfleet_link:start(#{{{options}, doorbell => {quoted(self.doorbell)}}})"
        self.process = subprocess.Popen(
            ["erl", *EMBEDDED, "-eval", f"catch begin {load}, {start} end.", "-eval", LISTENER],
            cwd=run,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def await_started(self) -> "Vm":
        assert select.select([self._bell], [], [], DEADLINE_S)[0], "the doorbell was not rung"
        return self

    def rings(self) -> bytes:
        """What was written to the doorbell since the last look."""
        try:
            return os.read(self._bell, 4096)
        except BlockingIOError:
            return b""

    def evaluate(self, expressions: str) -> str:
        """The value of Erlang expressions, as the VM prints it."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(expressions + "\n")
        self.process.stdin.flush()
        values = (line[3:].strip() for line in self.process.stdout if line.startswith("=> "))
        return next(values)

    def connect(self) -> socket.socket:
        """A connection, as soon as the link listens."""

        def attempt() -> socket.socket | None:
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(DEADLINE_S)
            try:
                client.connect(os.path.relpath(self.socket))
            except (FileNotFoundError, ConnectionRefusedError):
                client.close()
                return None
            return client

        return wait_for("the link's socket", attempt, deadline_s=DEADLINE_S)

    def ask(self) -> dict[str, Any]:
        """What an agent gets: one line, then the end."""
        with self.connect() as client:
            return answer(client)

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        os.close(self._bell)


def answer(client: socket.socket) -> dict[str, Any]:
    with client.makefile("rb") as lines:
        line, rest = lines.readline(), lines.read()
    assert line.endswith(b"\n")
    assert rest == b""
    said = json.loads(line)
    assert isinstance(said, dict)
    return said


@pytest.fixture(scope="session")
def beam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("beam")
    subprocess.run(["erlc", "-Wall", "-Werror", "-o", out, SOURCE], check=True)
    return out / "beamfleet_link.beam"


@pytest.fixture(scope="module")
def shared(beam: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm]:
    """One VM for the tests that leave it as it was."""
    vm = Vm(beam, tmp_path_factory.mktemp("shared"), boot=12)
    yield vm.await_started()
    vm.close()


@pytest.fixture
def boot(beam: Path, tmp_path: Path) -> Iterator[Callable[..., Vm]]:
    """Starts VMs that end with the test."""
    running: list[Vm] = []

    def start(boot: int = 1, run: Path = tmp_path, **paths: str) -> Vm:
        run.mkdir(parents=True, exist_ok=True)
        running.append(Vm(beam, run, boot, **paths))
        return running[-1]

    yield start
    for vm in running:
        vm.close()


def test_started_carries_the_boot_number_and_the_doorbell_rings_once(boot: Callable[..., Vm]) -> None:
    vm = boot(7).await_started()
    assert vm.started.read_text() == "7\n"
    assert vm.ask()["boot"] == 7
    assert vm.rings() == b"\n"
    assert [path.name for path in vm.run.iterdir() if path.suffix == ".tmp"] == []


def test_the_answer_is_one_line_with_exactly_the_documented_keys(shared: Vm) -> None:
    said = shared.ask()
    applications, memory = said.pop("applications"), said.pop("memory")
    assert set(said) == {
        *("v", "boot", "otp", "uptime_ms", "processes", "process_limit"),
        *("ports", "atoms", "atom_limit", "run_queue"),
    }
    assert (said["v"], said["boot"]) == (1, 12)
    assert said["otp"] == shared.evaluate("list_to_integer(erlang:system_info(otp_release)).")
    assert all(type(value) is int and value >= 0 for key, value in said.items() if key != "otp")
    assert 0 < said["processes"] < said["process_limit"]
    assert 0 < said["atoms"] < said["atom_limit"]
    assert set(memory) == {"total", "processes", "binary", "ets", "atom", "code", "system"}
    assert memory["total"] == pytest.approx(memory["processes"] + memory["system"], rel=0.05)
    assert all(set(each) == {"name", "version"} for each in applications)


def test_the_applications_are_those_that_run_with_their_versions(shared: Vm) -> None:
    running = {each["name"]: each["version"] for each in shared.ask()["applications"]}
    assert set(running) == {"kernel", "stdlib", "sasl"}
    assert f'"{running["stdlib"]}"' == shared.evaluate("element(2, application:get_key(stdlib, vsn)).")


def test_uptime_and_figures_are_those_of_the_moment(shared: Vm) -> None:
    before = shared.ask()
    shared.evaluate("[spawn(fun() -> receive stop -> ok end end) || _ <- lists:seq(1, 500)].")
    after = shared.ask()
    assert after["uptime_ms"] > before["uptime_ms"]
    assert after["processes"] >= before["processes"] + 500


def test_versions_with_quotes_and_other_letters_stay_json(shared: Vm) -> None:
    odd = '1.0-"ü\\\n€'
    version = r'"1.0-\"\x{fc}\\\n\x{20ac}"'
    shared.evaluate(f"application:load({{application, odd, [{{vsn, {version}}}, {{modules, []}}]}}).")
    assert shared.evaluate("application:start(odd).") == "ok"
    assert {"name": "odd", "version": odd} in shared.ask()["applications"]
    assert shared.evaluate("{application:stop(odd), application:unload(odd)}.") == "{ok,ok}"


def test_only_owner_and_group_may_open_the_socket(shared: Vm) -> None:
    shared.ask()
    assert stat.S_IMODE(shared.socket.stat().st_mode) == 0o660


def test_a_client_that_says_nothing_holds_up_nobody(shared: Vm) -> None:
    with shared.connect() as silent:
        assert shared.ask()["v"] == 1
        assert answer(silent)["v"] == 1


def test_a_client_that_talks_gets_the_same_answer(shared: Vm) -> None:
    with shared.connect() as noisy:
        noisy.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        noisy.setblocking(False)
        noisy.send(b"GET / HTTP/1.1\r\n\xff\0" * 1000)
        noisy.settimeout(DEADLINE_S)
        with noisy.makefile("rb") as lines:
            assert json.loads(lines.readline())["v"] == 1
    assert shared.ask()["v"] == 1


def test_clients_that_hang_up_at_once_do_no_harm(shared: Vm) -> None:
    for _ in range(50):
        shared.connect().close()
    assert shared.ask()["v"] == 1


def test_fifty_clients_at_once_are_all_answered(shared: Vm) -> None:
    with ThreadPoolExecutor(max_workers=50) as pool:
        said = list(pool.map(lambda _: shared.ask(), range(50)))
    assert [each["boot"] for each in said] == [12] * 50


def test_answering_leaves_nothing_behind(shared: Vm) -> None:
    ports = shared.ask()["ports"]
    for _ in range(100):
        shared.ask()
    later = shared.ask()
    assert later["ports"] <= ports
    assert shared.evaluate("length(ets:all()) < 100.") == "true"


def test_starting_twice_changes_nothing(shared: Vm) -> None:
    keeper = shared.evaluate("whereis(beamfleet_link).")
    again = 'beamfleet_link:start(#{socket => "elsewhere", started => "started.99", boot => 99})'
    first_end = "receive {trace, _, exit, Reason} -> erlang:trace(new_processes, false, [procs]), Reason end"
    assert shared.evaluate(f"erlang:trace(new_processes, true, [procs]), ok = {again}, {first_end}.") == "normal"
    assert shared.ask()["boot"] == 12
    assert shared.evaluate("whereis(beamfleet_link).") == keeper
    assert not (shared.run / "started.99").exists()


def test_it_outlives_whoever_started_it(boot: Callable[..., Vm]) -> None:
    vm = boot(1).await_started()
    vm.ask()
    vm.evaluate("exit(whereis(beamfleet_link), kill).")
    start = f'beamfleet_link:start(#{{socket => {quoted(vm.socket)}, started => "started.2", boot => 2}})'
    starter = f"spawn_monitor(fun() -> {start}, exit(killed_in_anger) end)"
    assert vm.evaluate(f"{{_, M}} = {starter}, receive {{'DOWN', M, _, _, R}} -> R end.") == "killed_in_anger"
    wait_for("the second start", (vm.run / "started.2").exists, deadline_s=DEADLINE_S)
    assert wait_for("its answers", lambda: vm.ask()["boot"] == 2, deadline_s=DEADLINE_S)


def test_two_vms_side_by_side_speak_for_themselves(boot: Callable[..., Vm], tmp_path: Path) -> None:
    one, two = boot(1, tmp_path / "one"), boot(2, tmp_path / "two")
    assert [vm.await_started().ask()["boot"] for vm in (one, two)] == [1, 2]


def test_the_socket_of_a_killed_vm_is_taken_over(boot: Callable[..., Vm]) -> None:
    first = boot(1).await_started()
    first.ask()
    first.process.kill()
    first.process.wait()
    assert first.socket.exists()
    second = boot(2)
    wait_for("the second VM's answer", second.started.exists, deadline_s=DEADLINE_S)
    assert second.ask()["boot"] == 2


def test_a_killed_server_is_back_by_itself(boot: Callable[..., Vm]) -> None:
    vm = boot(3).await_started()
    vm.ask()
    serving = "[{process, Server}] = element(2, process_info(whereis(beamfleet_link), monitors))"
    assert vm.evaluate(f"{serving}, exit(Server, kill).") == "true"
    assert vm.ask()["boot"] == 3
    assert vm.rings() == b"\n", "it says started once only"


def test_stray_messages_do_not_disturb_it(shared: Vm) -> None:
    shared.evaluate("[whereis(beamfleet_link) ! {hello, N} || N <- lists:seq(1, 100)].")
    shared.ask()
    assert shared.evaluate("process_info(whereis(beamfleet_link), message_queue_len).") == "{message_queue_len,0}"


def test_a_socket_path_too_long_for_the_kernel_works_when_relative(boot: Callable[..., Vm], tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    vm = boot(1, deep, socket_path="link.sock").await_started()
    vm.socket = deep / "link.sock"
    assert len(str(vm.socket)) > 108
    here = Path.cwd()
    os.chdir(deep)
    try:
        assert vm.ask()["boot"] == 1
    finally:
        os.chdir(here)


def test_a_place_that_is_not_there_yet_delays_started_and_nothing_else(boot: Callable[..., Vm], tmp_path: Path) -> None:
    vm = boot(1, started=str(tmp_path / "later/started.1"))
    assert vm.evaluate("1 + 1.") == "2"
    assert not vm.started.exists()
    vm.started.parent.mkdir()
    vm.await_started()
    assert vm.started.read_text() == "1\n"
    assert vm.ask()["boot"] == 1


@pytest.mark.parametrize("content", [b"", b"FOR1 this is no beam"])
def test_a_broken_link_leaves_the_release_alone(content: bytes, tmp_path: Path) -> None:
    broken = tmp_path / "beamfleet_link.beam"
    broken.write_bytes(content)
    vm = Vm(broken, tmp_path)
    try:
        assert vm.evaluate("whereis(beamfleet_link).") == "undefined"
        assert vm.rings() == b""
    finally:
        vm.close()


def test_a_doorbell_that_is_no_fifo_is_left_alone(beam: Path, tmp_path: Path) -> None:
    (tmp_path / "doorbell").write_text("not a bell")
    vm = Vm(beam, tmp_path)
    try:
        wait_for("started", vm.started.exists, deadline_s=DEADLINE_S)
        assert vm.ask()["v"] == 1
        assert (tmp_path / "doorbell").read_text() == "not a bell"
    finally:
        vm.close()


def test_sigterm_ends_the_vm_cleanly_with_the_link_in_use(boot: Callable[..., Vm]) -> None:
    vm = boot(1).await_started()
    with vm.connect() as client, client.makefile("rb") as lines:
        vm.process.send_signal(signal.SIGTERM)
        assert vm.process.wait(DEADLINE_S) == 0
        said = lines.read()
    assert said == b"" or json.loads(said)["v"] == 1, "a whole answer or none"
