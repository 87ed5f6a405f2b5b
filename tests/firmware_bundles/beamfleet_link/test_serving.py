"""That beamfleet_link answers, and that nothing a client or a disk does reaches the release."""

import contextlib
import json
import os
import signal
import socket
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.firmware_bundles.beamfleet_link.vm import DEADLINE_S, Vm, answer, load, quoted
from tests.support.fleet import wait_for


def test_started_carries_the_boot_number(boot: Callable[..., Vm]) -> None:
    vm = boot(7).await_started()
    assert vm.started.read_text() == "7\n"
    assert vm.ask()["boot"] == 7
    assert [path.name for path in vm.run.iterdir() if path.suffix == ".tmp"] == []


def test_only_owner_and_group_may_open_the_socket(shared: Vm) -> None:
    shared.ask()
    assert stat.S_IMODE(shared.socket.stat().st_mode) == 0o660


def test_a_client_that_says_nothing_holds_up_nobody(shared: Vm) -> None:
    with shared.connect() as silent:
        assert shared.ask()["v"] == 2
        assert answer(silent)["v"] == 2


def test_a_client_that_talks_gets_the_same_answer(shared: Vm) -> None:
    with shared.connect() as noisy:
        noisy.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        noisy.setblocking(False)
        with contextlib.suppress(BrokenPipeError):  # it answers at once, and has hung up already
            noisy.send(b"GET / HTTP/1.1\r\n\xff\0" * 1000)
        noisy.settimeout(DEADLINE_S)
        with noisy.makefile("rb") as lines:
            assert json.loads(lines.readline())["v"] == 2
    assert shared.ask()["v"] == 2


def test_clients_that_hang_up_at_once_do_no_harm(shared: Vm) -> None:
    for _ in range(50):
        shared.connect().close()
    assert shared.ask()["v"] == 2


def test_fifty_clients_at_once_are_all_answered(shared: Vm) -> None:
    with ThreadPoolExecutor(max_workers=50) as pool:
        said = list(pool.map(lambda _: shared.ask(), range(50)))
    assert [each["boot"] for each in said] == [12] * 50


def test_answering_leaves_nothing_behind(shared: Vm) -> None:
    ports = shared.ask()["ports"][0]
    for _ in range(100):
        shared.ask()
    later = shared.ask()
    assert later["ports"][0] <= ports
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


def test_a_killed_server_is_back_by_itself_and_says_started_once_only(boot: Callable[..., Vm]) -> None:
    vm = boot(3).await_started()
    vm.ask()
    vm.started.unlink()
    serving = "[{process, Server}] = element(2, process_info(whereis(beamfleet_link), monitors))"
    assert vm.evaluate(f"{serving}, exit(Server, kill).") == "true"
    assert vm.ask()["boot"] == 3
    assert not vm.started.exists()


def test_it_goes_on_when_newer_code_takes_its_place(beam: Path, boot: Callable[..., Vm]) -> None:
    vm = boot(4).await_started()
    vm.ask()
    keeper = vm.evaluate("beamfleet_link:metric(kept, 1), whereis(beamfleet_link).")
    again = f"code:purge(beamfleet_link), {load(beam)}"
    vm.evaluate(f"{again}, {again}, code:purge(beamfleet_link).")
    assert vm.ask()["metrics"] == {"kept": 1}
    assert vm.evaluate("whereis(beamfleet_link).") == keeper


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
    finally:
        vm.close()


def test_sigterm_ends_the_vm_cleanly_with_the_link_in_use(boot: Callable[..., Vm]) -> None:
    vm = boot(1).await_started()
    with vm.connect() as client, client.makefile("rb") as lines:
        vm.process.send_signal(signal.SIGTERM)
        assert vm.process.wait(DEADLINE_S) == 0
        said = lines.read()
    assert said == b"" or json.loads(said)["v"] == 2, "a whole answer or none"
