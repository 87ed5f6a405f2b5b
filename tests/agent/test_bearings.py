"""What was learnt from signed metadata: kept whole, read by everybody, and harmless when it is lost."""

import json
from pathlib import Path
from typing import Any

import pytest
from beamfleet_agent import bearings
from beamfleet_agent.bearings import Bearings
from beamfleet_agent.paths import Paths
from beamfleet_agent.settings import Server

LAID_DOWN = Server("https://old:8444", "https://old:8445", "old", 8883)
NEW = {"api": "https://new:8444", "enrol": "https://new:8445", "mqtt": "new:8883"}
VERSIONS = {"root": 1, "timestamp": 5, "snapshot": 5, "targets": 2, "products": {"gateway": 3}}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths(str(tmp_path))
    Path(made.trust).mkdir(parents=True)
    return made


def test_a_device_that_has_learnt_nothing_goes_by_what_was_laid_down(paths: Paths) -> None:
    assert bearings.load(paths) == Bearings()
    assert bearings.servers(paths, LAID_DOWN) == (LAID_DOWN,)
    assert bearings.authorities(paths) == paths.ca


def test_what_was_signed_comes_first_and_what_was_laid_down_stays_as_a_last_resort(paths: Paths) -> None:
    bearings.store(paths, b"PEM", [NEW], VERSIONS)
    first, last = bearings.servers(paths, LAID_DOWN)
    assert (first, last) == (Server("https://new:8444", "https://new:8445", "new", 8883), LAID_DOWN)
    assert bearings.load(paths).versions == VERSIONS
    assert Path(bearings.authorities(paths)).read_bytes() == b"PEM"
    laid_down = {"api": LAID_DOWN.api, "enrol": LAID_DOWN.enrol, "mqtt": "old:8883"}
    bearings.store(paths, b"", [NEW, laid_down], VERSIONS)
    assert bearings.servers(paths, LAID_DOWN) == (first, LAID_DOWN)
    assert bearings.authorities(paths) == paths.ca


def test_what_is_there_already_is_not_written_again(paths: Paths) -> None:
    bearings.store(paths, b"PEM", [NEW], VERSIONS)
    files = [Path(paths.bearings), Path(paths.authorities)]
    before = [file.stat().st_ino for file in files]
    bearings.store(paths, b"PEM", [NEW], VERSIONS)
    assert [file.stat().st_ino for file in files] == before


@pytest.mark.parametrize(
    "torn",
    [
        b"", b"{", b"[]", b"\0" * 40, b"[" * 40_000, {"servers": 1}, {"servers": []}, {"servers": [{}], "versions": {}},
        {"servers": [{**NEW, "api": "http://new"}], "versions": VERSIONS}, {"servers": [], "versions": {"root": 1}},
        {"servers": [], "versions": {**VERSIONS, "root": -1}},
        {"servers": [], "versions": {**VERSIONS, "products": []}},
    ],
)  # fmt: skip
def test_what_a_power_cut_tore_counts_as_never_learnt(paths: Paths, torn: Any) -> None:
    Path(paths.bearings).write_bytes(torn if isinstance(torn, bytes) else json.dumps(torn).encode())
    assert bearings.load(paths) == Bearings()


def test_a_version_beyond_all_counting_still_fits_into_a_report(paths: Paths) -> None:
    bearings.store(paths, b"", [], {**VERSIONS, "snapshot": 2**70})
    versions = bearings.load(paths).versions
    assert versions is not None
    assert versions["snapshot"] == 2**63 - 1
