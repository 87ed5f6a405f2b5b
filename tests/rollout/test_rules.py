"""At least 20,000 generated histories on the pure rules: what must hold at every moment of each does hold.

A failure names its seeds. `ROLLOUT_HISTORIES` in the environment chooses how many are played, `ROLLOUT_SEED` the first
one; one alone: `python -c "from tests.rollout.histories import play; play(SEED)"`.
"""

import os

import pytest

from tests.rollout.histories import play

pytestmark = [pytest.mark.suite(name="rollout"), pytest.mark.timeout(600)]

HISTORIES = int(os.environ.get("ROLLOUT_HISTORIES", "20000"))
FIRST = int(os.environ.get("ROLLOUT_SEED", "0"))
CHUNK = 500
NAMED = 20

MUST_HAPPEN = frozenset({
    "Retry", "Offer", "Drop", "Prove", "Unprove", "AskGate", "Enter", "Halt", "Reopen", "Finish",
    "Hold window", "Hold network", "Hold paused", "Hold halted", "Hold aborted", "Hold expired",
    "pause", "resume", "approve", "abort", "undo", "retry", "restart", "out of order", "bad release", "bad for some",
    "completed", "halted", "aborted", "expired", "paused",
    "committed", "committed already", "failed deadline", "skipped pinned", "skipped target", "skipped version",
    "superseded rollout 1", "superseded rollout 2",
    "trial > pending", "downloading > pending", "offered > failed", "trial > failed", "failed > pending",
    "failed > committed", "pending > trial", "committed > reverted", "trial > reverted", "skipped > committed",
})  # fmt: skip
"""Words of what has to come about somewhere in a thousand histories, or they would prove little."""


@pytest.mark.parametrize("first", range(FIRST, FIRST + HISTORIES, CHUNK))
def test_what_must_always_hold_holds_in_every_history(first: int) -> None:
    failed: dict[int, str] = {}
    for seed in range(first, min(first + CHUNK, FIRST + HISTORIES)):
        try:
            play(seed)
        except AssertionError as error:
            failed[seed] = str(error).splitlines()[0]
    assert not failed, f"{len(failed)} of {CHUNK} histories, seeds and why: {dict(list(failed.items())[:NAMED])}"


def test_the_histories_come_about_everywhere() -> None:
    happened = frozenset().union(*(play(seed).covered for seed in range(1000)))
    assert happened >= MUST_HAPPEN, f"never: {sorted(MUST_HAPPEN - happened)}"


def test_a_seed_makes_the_same_history_again() -> None:
    first, second = play(7), play(7)
    assert (first.ops, first.outcome) == (second.ops, second.outcome)
