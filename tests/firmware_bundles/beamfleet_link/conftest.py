"""beamfleet_link compiled once, and real VMs with it."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.firmware_bundles.beamfleet_link.vm import SOURCE, Vm


@pytest.fixture(scope="session")
def beam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("beam")
    subprocess.run(["erlc", "-Wall", "-Werror", "-o", out, SOURCE], check=True)
    return out / "beamfleet_link.beam"


@pytest.fixture(scope="module")
def shared(beam: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm]:
    """One VM for the tests that leave it as it was."""
    vm = Vm(beam, tmp_path_factory.mktemp("shared"), boot=12)
    yield vm.await_started()
    vm.close()


@pytest.fixture
def boot(beam: Path, tmp_path: Path) -> Iterator[Callable[..., Vm]]:
    """Starts VMs that end with the test."""
    running: list[Vm] = []

    def start(boot: int = 1, run: Path = tmp_path, **options: Any) -> Vm:
        run.mkdir(parents=True, exist_ok=True)
        running.append(Vm(beam, run, boot, **options))
        return running[-1]

    yield start
    for vm in running:
        vm.close()
