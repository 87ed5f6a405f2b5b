"""Probes that are functions of the release: asked for each answer, within their time, never twice at once."""

from collections.abc import Callable

import pytest

from tests.firmware_bundles.beamfleet_link.vm import Vm

MODULE = """
-module(pulse).
-compile([export_all, nowarn_export_all]).
good() -> true.
also_good() -> ok.
bad() -> {error, pump}.
crashing() -> error(pump).
counted() -> ets:update_counter(pulse, asked, 1, {asked, 0}), receive after 500 -> ok end.
hanging() -> ets:update_counter(pulse, asked, 1, {asked, 0}), receive never -> ok end.
deaf() -> process_flag(trap_exit, true), hanging().
"""
OK = ["ok", ""]


@pytest.fixture
def probed(boot: Callable[..., Vm]) -> Callable[..., Vm]:
    """A VM with probes in module pulse, which counts in a table of that name."""

    def start(*probes: str) -> Vm:
        vm = boot(probes=[f"{{{probe}}}" for probe in probes]).await_started()
        vm.evaluate("ets:new(pulse, [named_table, public]).")
        return vm.load(MODULE)

    return start


def test_true_and_ok_are_good_anything_else_is_told(probed: Callable[..., Vm]) -> None:
    vm = probed(*("startup, pulse, good, 2000", "readiness, pulse, also_good, 2000", "liveness, pulse, bad, 2000"))
    assert vm.ask()["probes"] == {"startup": OK, "readiness": OK, "liveness": ["failed", "{error,pump}"]}


def test_a_crash_and_a_function_that_there_is_not_are_failures(probed: Callable[..., Vm]) -> None:
    vm = probed("startup, pulse, crashing, 2000", "liveness, 'Elixir.Not.There', 'well?', 2000")
    assert vm.ask()["probes"] == {"startup": ["failed", "{error,pump}"], "liveness": ["failed", "{error,undef}"]}


def test_a_hanging_function_holds_up_an_answer_for_its_time_only(probed: Callable[..., Vm]) -> None:
    vm = probed("liveness, pulse, hanging, 50", "readiness, pulse, good, 2000")
    said = vm.ask()["probes"]
    assert said == {"liveness": ["failed", "no answer in time"], "readiness": OK}
    vm.ask()
    assert vm.evaluate("ets:lookup(pulse, asked).") == "[{asked,2}]", "the one before was ended"
    assert vm.evaluate("length([P || P <- processes(), {_, {pulse, hanging, 0}} <- "
                       "[process_info(P, current_function)]]).") == "0"  # fmt: skip


def test_one_that_takes_longer_than_an_answer_may_is_told_in_a_later_one_and_not_asked_twice_at_once(
    probed: Callable[..., Vm],
) -> None:
    vm = probed("startup, pulse, hanging, 2500", "readiness, pulse, good, 2000")
    assert vm.ask()["probes"] == {"readiness": OK}
    assert vm.ask()["probes"] == {"startup": ["failed", "no answer in time"], "readiness": OK}
    assert vm.evaluate("ets:lookup(pulse, asked).") == "[{asked,1}]"


def test_one_that_is_slow_but_in_time_is_good(probed: Callable[..., Vm]) -> None:
    vm = probed("liveness, pulse, counted, 2000")
    assert vm.ask()["probes"] == {"liveness": OK}
    vm.ask()
    assert vm.evaluate("ets:lookup(pulse, asked).") == "[{asked,2}]"


def test_killing_a_probe_is_a_failure_and_not_the_end(probed: Callable[..., Vm]) -> None:
    vm = probed("liveness, pulse, deaf, 50")
    assert vm.ask()["probes"] == {"liveness": ["failed", "no answer in time"]}
    assert vm.ask()["probes"] == {"liveness": ["failed", "no answer in time"]}
