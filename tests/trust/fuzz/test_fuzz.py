"""What arrives is hostile: whatever its bytes, a decoder understands it or refuses it with a code.

`FUZZ_SECONDS` in the environment makes each campaign longer than its 8 seconds; what it finds lies in the folder that
is named, and belongs into `tests/trust/corpus/DECODER/` when it has been mended."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.trust.fuzz.decoders import CORPUS, decoders, kept

pytestmark = [pytest.mark.suite(name="trust"), pytest.mark.timeout(3600)]

SECONDS = int(os.environ.get("FUZZ_SECONDS", "8"))
FEWEST_RUNS = 1000
DECODERS = decoders()
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), st.binary(max_size=12)), max_size=6)
"""Where (as a part of the length), how many bytes go, and what comes."""


@pytest.mark.parametrize("name", DECODERS)
def test_the_inputs_to_begin_with_are_understood(name: str) -> None:
    assert any(DECODERS[name].take(seed) for seed in DECODERS[name].seeds)


@pytest.mark.parametrize("name", DECODERS)
def test_every_kept_input_is_understood_or_refused(name: str) -> None:
    for data in kept(name):
        DECODERS[name].take(data)


def test_every_kept_input_belongs_to_a_decoder() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(DECODERS)
    assert all(kept(name) for name in DECODERS)


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_an_altered_input_is_understood_or_refused(name: str, data: st.DataObject) -> None:
    content = data.draw(st.sampled_from(DECODERS[name].seeds))
    for place, gone, new in data.draw(EDITS):
        start = int(place * len(content))
        content = content[:start] + new + content[start + gone :]
    DECODERS[name].take(content)


@pytest.mark.parametrize("name", DECODERS)
def test_a_campaign_finds_nothing(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.trust.fuzz.campaign", name, str(SECONDS), str(tmp_path / "found")]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS + 300)
    assert done.returncode == 0, f"{done.stdout[-4000:]}{done.stderr[-8000:]}"
    runs = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert runs, done.stderr[-4000:]
    assert int(runs[1]) >= FEWEST_RUNS, "it has hardly begun"
    print(f"{name}: {runs[1]} runs")
