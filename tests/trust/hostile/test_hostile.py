"""Every hostile input of the tables, given again and again to a real server and a real agent.

Refused under its code with one line in the log of whoever refused it; nobody falls, nothing is written outside staging/
and quarantine/, nothing is left there; memory does not grow with what was refused.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import pytest

from tests.trust.hostile import assignments, bundles, enrolment, messages, requests
from tests.trust.hostile.case import Case
from tests.trust.hostile.ground import Ground, State, opened

pytestmark = [pytest.mark.suite(name="trust"), pytest.mark.timeout(900)]

CASES: list[Case] = [
    *bundles.CASES, *requests.CASES, *enrolment.CASES, *messages.CASES, *assignments.CASES,
]  # fmt: skip
FIRST_KIB, LATER_KIB = 20 << 10, 1 << 10
"""What resident memory may grow by in the first pass, which loads code, and in one of the later: what leaks, grows in
each of them; where the allocator takes some more pages, nobody can say."""
LEAST, MOST = 2, 6
"""Passes over all inputs: as many as it takes until memory stands still."""


@dataclass(frozen=True, slots=True)
class Passes:
    """What was wrong with each input, by name; and the growth of memory in KiB by pass and process."""

    wrong: dict[str, list[str]]
    grown: list[dict[str, int]]


@pytest.fixture(scope="module")
def passes(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Passes]:
    """All passes over the inputs of the tests that were chosen."""
    chosen = [
        cast(Case, item.callspec.params["case"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module and hasattr(item, "callspec")
    ]
    wrong: dict[str, list[str]] = {case.name: [] for case in chosen or CASES}
    with opened(tmp_path_factory.mktemp("hostile")) as ground:
        grown = list[dict[str, int]]()
        memory = ground.memory_kib()
        while len(grown) < LEAST or (max(grown[-1].values()) >= LATER_KIB and len(grown) < MOST):
            began = time.monotonic()
            state = ground.state()
            for case in chosen or CASES:
                found, state = given(ground, case, state)
                wrong[case.name] += found
            ground.settle()
            before, memory = memory, ground.memory_kib()
            grown.append({name: memory[name] - before[name] for name in memory})
            print(f"pass {len(grown)}: {time.monotonic() - began:.1f} s, memory in KiB: {memory}, grown by {grown[-1]}")
        yield Passes(wrong, grown)


def given(ground: Ground, case: Case, state: State) -> tuple[list[str], State]:
    """Give one input; everything that is wrong about what became of it, and the state afterwards."""
    pids = ground.pids()
    try:
        heard = case.give(ground)
    except Exception as error:  # noqa: BLE001 (the other inputs are given all the same)
        heard = f"{type(error).__name__}: {error}"
    wrong = [] if heard in case.codes.split(" | ") else [f"refused with {heard!r}, not with {case.codes}"]
    for side, log in ground.sides.items():
        lines = log.refusals()
        if len(lines) != (1 if side == case.side else 0) or any(line.get("code") != heard for line in lines):
            wrong.append(f"lines of the {side}: {lines}")
        log.skip()
    if ground.pids() != pids:
        wrong.append("somebody has been started anew")
    now = ground.state()
    for before, after in zip(state, now, strict=True):
        changed = {key for key in {*before, *after} if before.get(key) != after.get(key)}
        if changed:
            wrong.append(f"changed: {sorted(changed)}")
    if left := ground.left_over():
        wrong.append(f"left over: {left}")
    return wrong, now


def test_there_are_enough_of_them() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 200


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_refused_and_nothing_else_happens(passes: Passes, case: Case) -> None:
    assert not passes.wrong[case.name], "\n".join(passes.wrong[case.name])


def test_memory_does_not_grow_with_what_is_refused(passes: Passes) -> None:
    first, *later = passes.grown
    assert max(first.values()) < FIRST_KIB, first
    assert min(max(grown.values()) for grown in later) < LATER_KIB, later
