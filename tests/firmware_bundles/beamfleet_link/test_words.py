"""metric/2, health/1 and confirm/0: what a release says of itself arrives, and saying it never hurts the release."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.firmware_bundles.beamfleet_link.vm import Vm, load


@pytest.fixture(scope="module")
def vm(beam: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm]:
    """One VM for the tests that do not mind what was said before."""
    vm = Vm(beam, tmp_path_factory.mktemp("words"))
    yield vm.await_started()
    vm.close()


def told(vm: Vm, expressions: str) -> dict[str, Any]:
    """The next answer after expressions that all come to `ok`."""
    assert vm.evaluate(f"{expressions}.") == "ok"
    return vm.ask()


def test_metrics_arrive_with_their_newest_value(boot: Callable[..., Vm]) -> None:
    vm = boot().await_started()
    said = told(vm, 'ok = beamfleet_link:metric(readings, 1), beamfleet_link:metric("readings", 42)')
    assert said["metrics"] == {"readings": 42}
    said = told(vm, 'ok = beamfleet_link:metric(<<"level_2">>, -0.5), beamfleet_link:metric(tiny, 1.0e-7)')
    assert said["metrics"] == {"readings": 42, "level_2": -0.5, "tiny": 1e-07}


@pytest.mark.parametrize(
    "word",
    [
        *("metric('Big', 1)", 'metric("with space", 1)', "metric('', 1)", "metric('1st', 1)", "metric([x | y], 1)"),
        *("metric(" + "a" * 33 + ", 1)", 'metric(text, <<"1">>)', "metric(huge, 1 bsl 5000)", "metric({a}, 1)"),
        *("health(well)", "health({broken, why})", "health({degraded})", "health({ok, fine})"),
    ],
)
def test_what_cannot_be_told_is_left_out_and_nothing_fails(word: str, shared: Vm) -> None:
    said = told(shared, f"beamfleet_link:{word}")
    assert "metrics" not in said
    assert "said" not in said


def test_integers_beyond_those_of_json_become_floats(vm: Vm) -> None:
    said = told(vm, "beamfleet_link:metric(wide, 1 bsl 60)")
    assert said["metrics"]["wide"] == 2.0**60


def test_there_is_room_for_sixteen_metrics(boot: Callable[..., Vm]) -> None:
    vm = boot().await_started()
    names = "[[$m, Letter] || Letter <- lists:seq($a, $z)]"
    said = told(vm, f"[ok] = lists:usort([beamfleet_link:metric(Name, 1) || Name <- {names}]), ok")
    assert sorted(said["metrics"]) == [f"m{letter}" for letter in "abcdefghijklmnop"]
    assert told(vm, "beamfleet_link:metric(ma, 2)")["metrics"]["ma"] == 2


def test_the_first_thing_left_out_is_logged_the_others_are_not(boot: Callable[..., Vm], tmp_path: Path) -> None:
    log = tmp_path / "vm.log"
    vm = boot().await_started()
    vm.evaluate(f'logger:add_handler(file, logger_std_h, #{{config => #{{file => "{log}"}}}}).')
    told(vm, "[beamfleet_link:metric(wrong, N) || N <- [a, b, c]], ok")
    told(vm, "logger_std_h:filesync(file)")
    lines = [line for line in log.read_text().splitlines() if "cannot be told" in line]
    assert len(lines) == 1
    assert "{wrong,a}" in lines[0]


def test_the_release_tells_how_it_finds_itself_and_why(vm: Vm) -> None:
    assert told(vm, 'beamfleet_link:health({degraded, "pump 2 is slow"})')["said"] == ["degraded", "pump 2 is slow"]
    assert told(vm, 'beamfleet_link:health({failing, <<"k\\x{e4}lt"/utf8>>})')["said"] == ["failing", "kält"]
    assert told(vm, "beamfleet_link:health({failing, {no_route, 7}})")["said"] == ["failing", "{no_route,7}"]
    assert told(vm, 'beamfleet_link:health({degraded, "two\\nlines\\e[2J"})')["said"] == ["degraded", "two lines [2J"]
    assert told(vm, "beamfleet_link:health(ok)")["said"] == ["ok", ""]


@pytest.mark.parametrize("reason", ["lists:duplicate(100000, $x)", "binary:copy(<<195, 164>>, 100000)"])
def test_a_long_reason_is_cut(reason: str, vm: Vm) -> None:
    status, text = told(vm, f"beamfleet_link:health({{degraded, {reason}}})")["said"]
    assert status == "degraded"
    assert len(text) == 120


@pytest.mark.parametrize("reason", ["<<255, 254>>", "[a | b]", "lists:seq(-5, 1000)", "maps:from_keys([a, b], 1)"])
def test_a_reason_may_be_anything(reason: str, vm: Vm) -> None:
    status, text = told(vm, f"beamfleet_link:health({{failing, {reason}}})")["said"]
    assert status == "failing"
    assert 0 < len(text) <= 120


def test_confirm_is_told(boot: Callable[..., Vm]) -> None:
    vm = boot().await_started()
    assert "confirm" not in vm.ask()
    assert told(vm, "beamfleet_link:confirm()")["confirm"] is True


def test_words_said_before_the_link_started_arrive(beam: Path, boot: Callable[..., Vm]) -> None:
    words = (
        "ok = beamfleet_link:metric(early, 1), ok = beamfleet_link:health({degraded, warm}), beamfleet_link:confirm()"
    )
    vm = boot(arguments=("-eval", f"{load(beam)}, {words}.")).await_started()
    said = vm.ask()
    assert (said["metrics"], said["said"], said["confirm"]) == ({"early": 1}, ["degraded", "warm"], True)


def test_words_outlive_the_application_that_said_them(boot: Callable[..., Vm]) -> None:
    vm = boot().await_started()
    vm.evaluate("exit(whereis(beamfleet_link), kill).")
    module = (
        "-module(talker).\n-behaviour(application).\n-export([start/2, stop/1]).\n"
        "start(_, _) -> ok = beamfleet_link:confirm(), {ok, spawn_link(fun() -> receive never -> ok end end)}.\n"
        "stop(_) -> ok.\n"
    )
    vm.load(module).evaluate("ets:delete(beamfleet_link).")
    vm.evaluate("application:load({application, talker, [{mod, {talker, []}}, {applications, [kernel]}]}).")
    assert vm.evaluate("{application:start(talker), application:stop(talker)}.") == "{ok,ok}"
    assert vm.evaluate("ets:lookup(beamfleet_link, confirm).") == "[{confirm,true}]"


def test_many_who_speak_first_at_the_same_time_are_all_heard(beam: Path, boot: Callable[..., Vm]) -> None:
    speak = "fun(I) -> spawn(fun() -> beamfleet_link:metric([$m, $a + I], I) end) end"
    early = f"{load(beam)}, lists:foreach({speak}, lists:seq(0, 15))."
    vm = boot(arguments=("-eval", early)).await_started()
    assert vm.ask()["metrics"] == {f"m{chr(97 + i)}": i for i in range(16)}
