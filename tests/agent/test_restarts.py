"""What is told of a start of the VM: once, and of one that nobody asked for with what the VM before left behind."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from beamfleet_agent import boot as boots
from beamfleet_agent import journal, restarts
from beamfleet_agent.journal import Ledger
from beamfleet_agent.log import Log
from beamfleet_agent.loop import Loop
from beamfleet_agent.paths import Paths
from beamfleet_agent.reports import Reports, dump
from beamfleet_agent.restarts import Restarts
from beamfleet_agent.telemetry import rhythm
from beamfleet_agent.update_state import State
from beamfleet_bundles import messages

Spin = Callable[[str, Callable[[], object]], None]
SLOGAN = "Kernel pid terminated (application_controller) ({application_start_failure,gateway,{bad_return,shutdown}})"


class Launcher:
    """What the launcher leaves on the disk of a device, and what is told of it."""

    def __init__(self, loop: Loop, root: Path) -> None:
        self.paths = Paths(str(root))
        for folder in (self.paths.boot, self.paths.dump, self.paths.run_app):
            Path(folder).mkdir(parents=True)
        self.reports = Reports(Ledger(boot=1), lambda *_: False, rhythm("wired", 0), heard=True)
        self.told = 0
        self.restarts = Restarts(loop, Log(os.open(os.devnull, os.O_WRONLY)), self.paths, self.reports, self._tell)

    def _tell(self) -> None:
        self.told += 1

    def starts(self, number: int, cause: str, detail: str = "") -> None:
        """boot/state is durable; the log of the VM before still lies where it was."""
        state = f"format=1\nslot=\nphase=committed\nstarts={number}\ncause={cause}\ndetail={detail}\n"
        Path(self.paths.boot, "state").write_text(state)
        self.restarts.look(boots.Boot(self.paths.app_dir, self.paths.run_app).state())

    def log(self, text: str | bytes, *, age_s: float = 5) -> Path:
        path = Path(self.paths.run_app, "vm.log")
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        then = path.stat().st_mtime - age_s
        os.utime(path, (then, then))
        return path

    def puts_aside(self) -> None:
        """The new VM's keeper is at work."""
        Path(self.paths.run_app, "keeper.pid").write_text("1\n")
        log = Path(self.paths.run_app, "vm.log")
        log.rename(f"{log}.1")
        log.write_text("the next VM begins\n")

    @property
    def events(self) -> list[dict[str, Any]]:
        return [entry for entry in self.reports.ledger.outbox if entry["kind"] == "restart"]

    @property
    def evidence(self) -> dict[str, Any]:
        """Of the newest event, which fits its message."""
        decoded = messages.decode("event", dump(self.events[-1]))
        assert isinstance(decoded, messages.Event)
        found: dict[str, Any] = self.events[-1]["evidence"]
        return found


@pytest.fixture
def launcher(loop: Loop, tmp_path: Path) -> Launcher:
    return Launcher(loop, tmp_path / "device")


def test_a_crash_leaves_its_slogan_its_status_and_its_last_words(launcher: Launcher, spin: Spin) -> None:
    launcher.log("".join(f"line {number}\n" for number in range(40)))
    launcher.starts(2, "crash", f"status 1, {SLOGAN[:90]}")
    looks = iter(range(3))
    spin("a few turns", lambda: next(looks, None) is None)
    assert launcher.events == [], "the log has not been put aside yet"
    launcher.puts_aside()
    spin("the event", lambda: launcher.events)
    assert launcher.told == 1
    found = launcher.evidence
    assert (found["status"], found["slogan"]) == ("status 1", SLOGAN[:90])
    assert found["log"] == [f"line {number}" for number in range(20, 40)]
    assert launcher.reports.ledger.starts == 2
    launcher.starts(2, "crash", "status 1")
    assert len(launcher.events) == 1, "once"


def test_a_vm_that_is_asked_to_end_has_its_last_word(launcher: Launcher, spin: Spin) -> None:
    Path(launcher.paths.run_app, "vm.log.1").write_text("of the VM before\n")
    launcher.log("the pump is stuck\n")
    launcher.starts(2, "probe", "liveness: port 80: Connection refused")
    launcher.log("the pump is stuck\nSIGTERM received - shutting down\n", age_s=-1)
    looks = iter(range(3))
    spin("a few turns", lambda: next(looks, None) is None)
    assert launcher.events == [], "it still writes into the log"
    launcher.log("the pump is stuck\nSIGTERM received - shutting down\n")
    launcher.puts_aside()
    spin("the event", lambda: launcher.events)
    assert launcher.evidence["log"] == ["the pump is stuck", "SIGTERM received - shutting down"]


def test_a_vm_that_has_begun_is_not_waited_for(launcher: Launcher, spin: Spin) -> None:
    launcher.log("of the VM before\n")
    launcher.puts_aside()
    Path(launcher.paths.run_app, "app").mkdir()
    Path(launcher.paths.run_app, "app/started.2").write_text("2\n")
    os.utime(Path(launcher.paths.run_app, "keeper.pid"), (1, 1))  # the state was written again since
    launcher.starts(2, "crash", "status 1")
    looks = iter(range(3))
    spin("a few turns", lambda: next(looks, None) is None)
    assert launcher.evidence["log"] == ["of the VM before"]


def test_a_launcher_that_puts_nothing_aside_is_not_waited_for_for_ever(
    launcher: Launcher, spin: Spin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarts, "ASIDE_S", 0.2)
    launcher.log("of the VM that runs\n")
    Path(launcher.paths.run_app, "vm.log.1").write_text("of the VM before\n")
    launcher.starts(2, "hang", "status 137")
    spin("the event", lambda: launcher.events)
    assert launcher.evidence == {"slogan": "", "status": "status 137", "log": ["of the VM before"]}


@pytest.mark.parametrize("cause", ["update", "rollback", "operator", ""])
def test_what_was_asked_for_is_told_at_once_without_evidence(launcher: Launcher, cause: str) -> None:
    launcher.log("words\n")
    launcher.starts(2, cause)
    assert "evidence" not in launcher.events[-1]
    assert launcher.told == 0, "who looks writes the journal anyway"


@pytest.mark.parametrize(
    ("cause", "detail", "status"),
    [("revert", "crash: status 1, boom", "status 1"), ("fallback", "oom: status 137", "status 137"),
     ("revert", "deadline", ""), ("power", "", ""), ("killed", "the launcher was ended", "")],
)  # fmt: skip
def test_a_release_that_went_back_leaves_evidence_too(
    launcher: Launcher, spin: Spin, cause: str, detail: str, status: str
) -> None:
    launcher.starts(2, cause, detail)
    spin("the event", lambda: launcher.events)
    assert launcher.evidence["status"] == status


def test_a_revert_that_somebody_asked_for_does_not(launcher: Launcher) -> None:
    launcher.starts(2, "revert", "operator")
    assert "evidence" not in launcher.events[-1]


def test_nothing_secret_no_colour_and_no_endless_line_leaves_the_device(launcher: Launcher, spin: Spin) -> None:
    launcher.log(b"\x1b[31mpassword=hunter2\x1b[0m\n" + b"x" * 4_000 + b"\n\xff\xfe token: hunter3 \x07\n")
    launcher.starts(2, "crash", "status 1, {badmatch,{password,hunter4}}")
    launcher.puts_aside()
    spin("the event", lambda: launcher.events)
    event = launcher.events[-1]
    assert "hunter" not in json.dumps(event)
    assert event["detail"] == "status 1, {badmatch,{password,[redacted]}}"
    assert [len(line) for line in launcher.evidence["log"]][1] == 256
    assert all(line.isprintable() for line in launcher.evidence["log"])


def test_evidence_is_bounded_and_so_is_the_journal_that_keeps_it(launcher: Launcher, spin: Spin) -> None:
    for number in range(2, 80):
        launcher.log("".join(f"{'ü' * 250} {line}\n" for line in range(30)))
        launcher.starts(number, "crash", "status 1")
        launcher.puts_aside()
        spin("the event", lambda number=number: launcher.reports.ledger.starts == number)  # type: ignore[misc]
        assert sum(len(json.dumps(line)) for line in launcher.evidence["log"]) <= restarts.MAX_BYTES
    written = journal.encode(State(), launcher.reports.ledger)
    assert len(written) < journal.MAX_BYTES / 2
    assert journal.decode(written) == (State(), launcher.reports.ledger)


def test_the_whole_slogan_is_taken_from_the_dump_of_this_very_crash(launcher: Launcher, spin: Spin) -> None:
    dump_file = Path(launcher.paths.dump, "erl_crash.dump")
    dump_file.write_text(f"=erl_crash_dump:0.5\nSun\nSlogan: {SLOGAN}\nSystem version: x\n")
    launcher.starts(2, "crash", f"status 1, {SLOGAN[:100]}")
    spin("the event", lambda: launcher.events)
    assert launcher.evidence["slogan"] == SLOGAN
    launcher.starts(3, "crash", "status 1, another end")
    spin("the event", lambda: len(launcher.events) == 2)
    assert launcher.evidence["slogan"] == "another end"


def test_a_link_or_a_pipe_in_the_place_of_log_or_dump_is_not_read(
    launcher: Launcher, spin: Spin, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(f"1\n2\nSlogan: {SLOGAN}\n4\n")
    Path(launcher.paths.run_app, "vm.log.1").symlink_to(tmp_path / "secret")
    Path(launcher.paths.dump, "erl_crash.dump").symlink_to(tmp_path / "secret")
    launcher.starts(2, "crash", f"status 1, {SLOGAN[:60]}")
    spin("the event", lambda: launcher.events)
    assert launcher.evidence == {"slogan": SLOGAN[:60], "status": "status 1", "log": []}
    Path(launcher.paths.run_app, "vm.log.1").unlink()
    os.mkfifo(Path(launcher.paths.run_app, "vm.log.1"))
    launcher.starts(3, "crash", "status 1")
    spin("the event", lambda: len(launcher.events) == 2)
