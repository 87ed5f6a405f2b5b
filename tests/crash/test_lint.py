"""Nothing is believed before it is durable: data and directories are fsynced before a rename and before a report.

The shipped worker and launcher keep to it, and each planted bug is found.
"""

import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.crash import bootloader, device, planted, tracer
from tests.crash.bootloader import Bootloader
from tests.crash.device import STDOUT, Versions
from tests.crash.lint import Lint
from tests.crash.planted import Bug

pytestmark = [
    pytest.mark.suite(name="crash"),
    pytest.mark.skipif(bool(tracer.why_not()), reason=tracer.why_not() or "can be traced"),
]


def foreign_worker(root: Path, bundle: Path, packages: Path) -> None:
    """Become the worker of other packages than the installed ones."""
    words = {"job": "stage", "root": str(root), "path": str(bundle), "floors": {}}
    (root / "stdin").write_text(json.dumps(words) + "\n" + json.dumps({"proceed": True}) + "\n")
    for number, name, flags in (
        (0, "stdin", os.O_RDONLY),
        (1, STDOUT, os.O_WRONLY),
        (2, "stderr", os.O_WRONLY | os.O_CREAT),
    ):
        os.dup2(os.open(root / name, flags, 0o600), number)
    command = [sys.executable, "-P", "-B", "-m", "beamfleet_agent.worker", str(os.getppid())]
    os.execve(command[0], command, {"PYTHONPATH": str(packages)})  # noqa: S606 - its parent must be the tracer


def test_the_shipped_worker_reports_only_what_is_durable(
    room: Path, installed: Path, bundles: Versions, figures: Counter[str]
) -> None:
    root = device.renew(installed, room / "device")
    trace = device.staged(root, bundles.new.path)
    found = Lint(device.rules(bundles.new.slot)).findings(trace.calls)
    figures["lint_findings"] += len(found)
    assert (trace.status, found) == (0, [])


@pytest.mark.parametrize("bug", planted.WORKER, ids=lambda bug: bug.name)
def test_a_bug_planted_in_the_worker_is_found(
    room: Path, tmp_path: Path, installed: Path, bundles: Versions, figures: Counter[str], bug: Bug
) -> None:
    packages = planted.copy_packages(tmp_path, bug)
    root = device.renew(installed, room / "device")
    (root / STDOUT).write_bytes(b"")
    trace = tracer.run(lambda: foreign_worker(root, bundles.new.path, packages), root)
    assert trace.status == 0, (root / "stderr").read_text()
    figures["planted"] += 1
    assert Lint(device.rules(bundles.new.slot)).findings(trace.calls)
    figures["caught"] += 1


@pytest.mark.parametrize("goal", ["committed", "reverted"])
def test_the_shipped_launcher_starts_and_answers_only_what_is_durable(
    room: Path, running: Path, figures: Counter[str], goal: str
) -> None:
    trace = Bootloader(device.renew(running, room / "device"), goal).traced()
    found = Lint(bootloader.rules()).findings(trace.calls)
    figures["lint_findings"] += len(found)
    assert (trace.status, found) == (0, [])


@pytest.mark.parametrize("bug", planted.LAUNCHER, ids=lambda bug: bug.name)
def test_a_bug_planted_in_the_launcher_is_found(room: Path, running: Path, figures: Counter[str], bug: Bug) -> None:
    root = device.renew(running, room / "device")
    bug.plant(root / "usr/lib/beamfleet" / bug.file)
    trace = Bootloader(root, "committed").traced()
    assert trace.status == 0
    figures["planted"] += 1
    assert Lint(bootloader.rules()).findings(trace.calls)
    figures["caught"] += 1
