"""Restarts of supervised children are counted, whatever the release makes of log events, and no event is changed."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.firmware_bundles.beamfleet_link.vm import DEADLINE_S, Vm
from tests.support.fleet import wait_for

SUPERVISOR = """
-module(tree).
-export([start/1, init/1, child/0, kill/1]).
start(Restart) -> {ok, Pid} = supervisor:start_link(?MODULE, Restart), unlink(Pid), Pid.
init(Restart) -> {ok, {#{intensity => 100, period => 1},
                       [#{id => child, restart => Restart, start => {?MODULE, child, []}}]}}.
child() -> {ok, spawn_link(fun() -> receive Reason -> exit(Reason) end end)}.
kill(Sup) -> [{_, Child, _, _}] = supervisor:which_children(Sup), M = monitor(process, Child), Child ! broken,
             receive {'DOWN', M, process, Child, _} -> _ = supervisor:which_children(Sup), ok end.
"""
DROP = "fun(#{meta := #{domain := [otp, sasl | _]}}, _) -> stop; (Event, _) -> Event end"


@pytest.fixture(scope="module")
def vm(beam: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm]:
    """One VM with module tree; it has answered, so restarts are counted."""
    vm = Vm(beam, tmp_path_factory.mktemp("restarts"))
    vm.await_started().ask()
    yield vm.load(SUPERVISOR)
    vm.close()


def restarts(vm: Vm) -> int:
    count = vm.ask()["restarts"]
    assert isinstance(count, int)
    return count


@pytest.mark.parametrize(("restart", "counted"), [("permanent", 3), ("transient", 3), ("temporary", 0)])
def test_what_a_supervisor_restarts_is_counted(restart: str, counted: int, vm: Vm) -> None:
    kill = "tree:kill(Sup)" if counted else "catch tree:kill(Sup)"
    before = restarts(vm)
    vm.evaluate(f"Sup = tree:start({restart}), [{kill} || _ <- [1, 2, 3]], ok.")
    assert restarts(vm) == before + counted


def test_a_release_whose_filter_drops_reports_of_supervisors_has_them_counted(boot: Callable[..., Vm]) -> None:
    early = f"logger:add_primary_filter(translator, {{{DROP}, []}})."
    vm = boot(arguments=("-eval", early)).await_started().load(SUPERVISOR)
    vm.ask()
    vm.evaluate("Sup = tree:start(permanent), tree:kill(Sup), tree:kill(Sup).")
    assert restarts(vm) == 2
    assert vm.evaluate("[Id || {Id, _} <- maps:get(filters, logger:get_primary_config())].") == (
        "[beamfleet_link,translator]"
    )


def test_a_filter_that_comes_later_is_behind_it_from_the_next_answer_on(vm: Vm) -> None:
    vm.evaluate(f"logger:add_primary_filter(translator, {{{DROP}, []}}).")
    before = restarts(vm)
    vm.evaluate("tree:kill(tree:start(permanent)), logger:remove_primary_filter(translator).")
    assert restarts(vm) == before + 1


def test_no_event_is_changed(vm: Vm, tmp_path: Path) -> None:
    log = tmp_path / "vm.log"
    vm.evaluate(f'logger:add_handler(file, logger_std_h, #{{config => #{{file => "{log}"}}}}).')
    vm.evaluate("tree:kill(tree:start(permanent)).")
    vm.evaluate('logger:error("plain ~s", [words]), logger_std_h:filesync(file).')
    wait_for("the log", lambda: "plain words" in log.read_text(), deadline_s=DEADLINE_S)
    assert "child_terminated" in log.read_text()


@pytest.mark.parametrize(
    "report",
    [
        "#{label => {supervisor, child_terminated}, report => []}",
        "#{label => {supervisor, child_terminated}, report => [broken | list]}",
        "#{label => {supervisor, child_terminated}, report => [{offender, none}]}",
        "#{label => {supervisor, child_terminated}}",
    ],
)
def test_a_report_of_another_make_counts_nothing_and_costs_no_filter(report: str, vm: Vm) -> None:
    before = restarts(vm)
    vm.evaluate(f"logger:error({report}).")
    vm.evaluate("tree:kill(tree:start(permanent)).")
    assert restarts(vm) == before + 1
