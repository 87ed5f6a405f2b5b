"""A real mix release that depends on beamfleet_link, under the launcher: Elixir's supervisors, functions and words."""

import json
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import release_slots
from tests.support.fleet import wait_for
from tests.support.launcher_device import OLD, LauncherDevice

PROBES = """probe_readiness_erlang=Elixir.LabMix.Probes:ready?
probe_liveness_erlang=lab:liveness
"""
WELL = ["ok", ""]


class Lab(LauncherDevice):
    """A device whose release gets ill on demand."""

    def turn(self, knob: str) -> None:
        assert self.http(f"/{knob}") == {"turned": True}, knob

    def ask(self) -> dict[str, Any]:
        directory = os.open(self.run, os.O_PATH)
        try:
            with socket.socket(socket.AF_UNIX) as link:
                link.connect(f"/proc/self/fd/{directory}/app/link.sock")
                said: dict[str, Any] = json.loads(link.makefile().read())
        finally:
            os.close(directory)
        return said


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    written = release_slots.Releases(tmp_path_factory.mktemp("releases")).slot("lab_mix", "1.0.0")
    launch = (written / ".beamfleet/launch").read_text() + PROBES
    made = Lab(tmp_path_factory.mktemp("lab"))
    release_slots.lay(written, made.slot(OLD), replaced={".beamfleet/launch": launch.encode()})
    made.start()
    made.install(OLD)
    wait_for("the lab to answer", made.http, deadline_s=30)
    yield made
    made.stop()


def test_what_an_elixir_supervisor_restarts_is_counted(lab: Lab) -> None:
    before = lab.ask()["restarts"]
    lab.turn("crash/3")
    assert lab.ask()["restarts"] == before + 3


def test_functions_of_elixir_and_erlang_are_probes(lab: Lab) -> None:
    assert lab.ask()["probes"] == {"readiness": WELL, "liveness": WELL}
    lab.turn("probe/readiness/bad")
    lab.turn("probe/liveness/bad")
    said = {"readiness": ["failed", "false"], "liveness": ["failed", '{bad,<<"liveness">>}']}
    assert lab.ask()["probes"] == said
    lab.turn("probe/readiness/good")
    lab.turn("probe/liveness/good")
    assert lab.ask()["probes"] == {"readiness": WELL, "liveness": WELL}


def test_its_words_arrive_where_the_launchers_link_took_the_place_of_its_own(lab: Lab) -> None:
    for knob in ("metric/readings/42", "metric/level/0.5", "say/degraded/pump%202", "confirm"):
        lab.turn(knob)
    said = lab.ask()
    assert said["metrics"] == {"readings": 42, "level": 0.5}
    assert (said["said"], said["confirm"]) == (["degraded", "pump 2"], True)
    assert dict(said["applications"])["beamfleet_link"] == "0.1.0"
