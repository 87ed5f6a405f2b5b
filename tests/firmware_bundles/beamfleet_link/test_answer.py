"""What beamfleet_link says of a VM: every figure, against what the VM itself knows."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.firmware_bundles.beamfleet_link.vm import Vm
from tests.support.fleet import wait_for

COUNTED = {"processes": "process", "ports": "port", "atoms": "atom", "ets": "ets"}
DEAF = "spawn(fun() -> receive never -> ok end end)"


def test_the_answer_has_exactly_the_documented_keys(shared: Vm) -> None:
    said = shared.ask()
    assert list(said) == [
        *("v", "boot", "otp", "uptime_ms", "memory", "processes", "ports", "atoms", "ets", "run_queue"),
        *("schedulers", "gc", "restarts", "queues", "applications"),
    ]
    assert (said["v"], said["boot"]) == (2, 12)
    assert said["otp"] == shared.evaluate("list_to_integer(erlang:system_info(otp_release)).")
    memory = said["memory"]
    assert set(memory) == {"total", "processes", "binary", "ets", "atom", "code", "system"}
    assert memory["total"] == pytest.approx(memory["processes"] + memory["system"], rel=0.05)


@pytest.mark.parametrize("key", COUNTED)
def test_what_has_a_limit_comes_with_it(key: str, shared: Vm) -> None:
    count, limit = shared.ask()[key]
    assert 0 < count < limit
    assert str(limit) == shared.evaluate(f"erlang:system_info({COUNTED[key]}_limit).")


def test_the_applications_are_those_that_run_with_their_versions(shared: Vm) -> None:
    running = dict(shared.ask()["applications"])
    assert set(running) == {"kernel", "stdlib", "sasl"}
    assert f'"{running["stdlib"]}"' == shared.evaluate("element(2, application:get_key(stdlib, vsn)).")


def test_versions_with_quotes_and_other_letters_stay_json_on_one_line(shared: Vm) -> None:
    version = r'"1.0-\"\x{fc}\\\n\x{20ac}"'
    shared.evaluate(f"application:load({{application, odd, [{{vsn, {version}}}, {{modules, []}}]}}).")
    assert shared.evaluate("application:start(odd).") == "ok"
    assert ["odd", '1.0-"ü\\ €'] in shared.ask()["applications"]
    assert shared.evaluate("{application:stop(odd), application:unload(odd)}.") == "{ok,ok}"


def test_figures_are_those_of_the_moment(boot: Callable[..., Vm]) -> None:
    vm = boot().await_started()
    before = vm.ask()
    vm.evaluate(f"[{DEAF} || _ <- lists:seq(1, 500)].")
    vm.evaluate("spawn(fun() -> [ets:new(some, []) || _ <- lists:seq(1, 20)], receive never -> ok end end).")
    vm.evaluate("[binary_to_atom(integer_to_binary(I)) || I <- lists:seq(1, 300)], garbage_collect().")

    def after() -> dict[str, Any] | None:
        said = vm.ask()
        return said if said["ets"][0] >= before["ets"][0] + 20 else None

    said = wait_for("the tables", after, deadline_s=20)
    assert said["uptime_ms"] > before["uptime_ms"]
    assert said["processes"][0] >= before["processes"][0] + 500
    assert said["atoms"][0] >= before["atoms"][0] + 300
    assert said["gc"] > before["gc"]


def test_use_of_schedulers_is_that_since_the_answer_before(boot: Callable[..., Vm]) -> None:
    vm = boot(arguments=("+S", "2:2")).await_started()
    vm.ask()
    spin = "fun Spin() -> Spin() end"
    vm.evaluate(f"put(busy, [spawn({spin}) || _ <- [1, 2, 3]]), timer:sleep(800).")
    online, busy = vm.ask()["schedulers"]
    assert online == 2
    assert busy > 900
    vm.evaluate("[exit(Pid, kill) || Pid <- get(busy)].")
    vm.ask()
    vm.evaluate("timer:sleep(250).")
    assert vm.ask()["schedulers"][1] < 500


def test_the_five_longest_queues_come_with_names_longest_first(boot: Callable[..., Vm]) -> None:
    vm = boot().await_started()
    fill = "Fill = fun(Pid, N) -> [Pid ! I || I <- lists:seq(1, N)], Pid end, put(fill, Fill)"
    vm.evaluate(f"{fill}, register(telemetry_in, Fill({DEAF}, 100000)), ok.")
    vm.evaluate("proc_lib:spawn(timer, sleep, [infinity]), ok.")
    vm.evaluate("Server = proc_lib:spawn(timer, sleep, [infinity]), (get(fill))(Server, 50), ok.")
    vm.evaluate(f"put(nameless, (get(fill))({DEAF}, 40)), ok.")
    vm.evaluate("(get(fill))(spawn(timer, sleep, [infinity]), 30), ok.")
    vm.evaluate(f"[(get(fill))({DEAF}, N) || N <- [9, 10, 11]], ok.")
    nameless = vm.evaluate("get(nameless).")
    queues = vm.ask()["queues"]
    assert queues[:4] == [["telemetry_in", 100000], ["timer:sleep/1", 50], [nameless, 40], ["timer:sleep/1", 30]]
    assert [length for _, length in queues[4:]] == [11]


def test_a_scan_of_queues_goes_round_and_keeps_to_what_it_found(boot: Callable[..., Vm]) -> None:
    vm = boot(arguments=("+P", "65536")).await_started()
    vm.evaluate(f"[{DEAF} || _ <- lists:seq(1, 45000)], ok.")
    vm.evaluate(f"Pid = {DEAF}, register(late, Pid), [Pid ! I || I <- lists:seq(1, 20)], ok.")
    answers = [vm.ask()["queues"] for _ in range(8)]
    found = [bool(queues) for queues in answers]
    assert [["late", 20]] in answers
    assert found == sorted(found), "once found, it is looked at each time"


def test_a_release_that_is_asked_while_every_scheduler_works_still_answers(boot: Callable[..., Vm]) -> None:
    vm = boot(arguments=("+S", "1:1")).await_started()
    vm.evaluate("[spawn(fun Spin() -> Spin() end) || _ <- lists:seq(1, 20)], ok.")
    assert vm.ask()["run_queue"] > 5
