"""The functions that a launch description names as probes reach beamfleet_link, and nothing else does."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import release_slots
from tests.support.launcher_device import NEW, LauncherDevice

WELL = ["ok", ""]
FUNCTIONS = """probe_startup_erlang=erlang:garbage_collect
probe_readiness_erlang=erlang:is_alive
probe_readiness_period_s=5
probe_readiness_timeout_s=2
probe_liveness_erlang=Elixir.Not.There:alive?
probe_liveness_timeout_s=60
"""
FORGED = """probe_startup_erlang=erlang:halt'},{a,'b
probe_readiness_erlang=erlang
probe_liveness_erlang=erlang:garbage_collect
probe_liveness_timeout_s=1},halt(),{a
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Installs a release with such lines in its launch description; what its beamfleet_link answers."""
    device = LauncherDevice(tmp_path)

    def answer(lines: str) -> dict[str, Any]:
        release_slots.tiny(device.slot(NEW), {}, lines)
        device.start()
        device.install(NEW)
        directory = os.open(device.run, os.O_PATH)
        try:
            with socket.socket(socket.AF_UNIX) as link:
                device.until("the link", lambda _: (device.run / "app/link.sock").exists())
                link.connect(f"/proc/self/fd/{directory}/app/link.sock")
                said: dict[str, Any] = json.loads(link.makefile().read())
        finally:
            os.close(directory)
        return said

    yield answer
    device.stop()


def test_functions_of_each_kind_are_asked(run: Callable[[str], dict[str, Any]]) -> None:
    probes = {"startup": WELL, "readiness": ["failed", "false"], "liveness": ["failed", "{error,undef}"]}
    assert run(FUNCTIONS)["probes"] == probes


def test_what_is_no_function_is_left_out_and_the_release_starts(run: Callable[[str], dict[str, Any]]) -> None:
    assert "probes" not in run(FORGED)
