"""The archive that helps to see why: what is in it, what never is, and its way over a line that breaks."""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from beamfleet_agent import diagnosis
from beamfleet_agent.errors import AgentError
from beamfleet_agent.paths import Paths
from beamfleet_agent.worker import diagnose as module
from beamfleet_agent.worker.diagnose import PIECE, TRIES, diagnose
from beamfleet_agent.worker.job import Job
from beamfleet_bundles import drafts, recipients, sealing
from beamfleet_server.cli import unpacking
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.agent.authority import Authority
from tests.agent.centre import DEVICE, SmallCentre
from tests.agent.device import lay_down, words
from tests.support.repository import Repository

KEY = X25519PrivateKey.generate()
WORD = "0123456789abcdef"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return lay_down(tmp_path / "device", words(DEVICE, env={"DB_PASSWORD": "hunter2"}))


def files_of(paths: Paths) -> dict[str, bytes]:
    return unpacking.read(diagnosis.archive(paths, {"device": DEVICE}))


def left_out(paths: Paths) -> dict[str, str]:
    found: dict[str, str] = json.loads(files_of(paths)["facts.json"])["left_out"]
    return found


def test_everything_that_helps_is_in_it_and_no_key_token_or_setting_of_the_release(paths: Paths) -> None:
    Path(paths.boot, "state").write_text("format=1\nphase=committed\n")
    Path(paths.boot, "hook.commit").write_text("x 1 0 -\n")
    Path(paths.run_app, "probe.liveness").write_text("x 1 3\n")
    Path(paths.run_app, "vm.log").write_text("of this VM\n")
    Path(paths.run_app, "vm.log.1").write_text("of the VM before\n")
    Path(paths.dump, "erl_crash.dump").write_text("=erl_crash_dump:0.5\n")
    Path(paths.token).write_text("a-token-that-is-secret")
    Path(paths.key).write_text("a-key-that-is-secret")
    files = files_of(paths)
    assert list(files) == [
        "facts.json",
        "boot/hook.commit",
        "boot/state",
        "probe.liveness",
        "journal",
        "vm.log.1",
        "vm.log",
        "erl_crash.dump",
    ]
    assert (files["vm.log.1"], files["erl_crash.dump"]) == (b"of the VM before\n", b"=erl_crash_dump:0.5\n")
    facts = json.loads(files["facts.json"])
    assert (facts["status"], facts["settings"]["device"], facts["left_out"]) == ({"device": DEVICE}, DEVICE, {})
    whole = b"".join(files.values())
    assert b"hunter2" not in whole
    assert b"is-secret" not in whole


def test_the_state_is_in_it_whatever_hooks_left_behind(paths: Paths) -> None:
    Path(paths.boot, "state").write_text("format=1\n")
    for number in range(diagnosis.MAX_BOOT_FILES):
        Path(paths.boot, f"hook.{number}").write_text("power was cut\n")
    found = [name for name in files_of(paths) if name.startswith("boot/")]
    assert (len(found), found[-1]) == (diagnosis.MAX_BOOT_FILES, "boot/state")


def test_a_device_that_has_nothing_to_show_makes_one_too(paths: Paths) -> None:
    for folder in (paths.boot, paths.dump):
        Path(folder).rmdir()
    assert {"facts.json", "journal"} <= set(files_of(paths))


@pytest.mark.parametrize("kind", ["link", "pipe", "second name", "directory"])
def test_only_a_plain_file_of_its_own_is_read(paths: Paths, tmp_path: Path, kind: str) -> None:
    secret, dump = tmp_path / "secret", Path(paths.dump, "erl_crash.dump")
    secret.write_text("hunter2")
    match kind:
        case "link":
            dump.symlink_to(secret)
        case "pipe":
            os.mkfifo(dump)
        case "second name":
            dump.hardlink_to(secret)
        case _:
            dump.mkdir()
    assert "erl_crash.dump" in left_out(paths)
    assert "erl_crash.dump" not in files_of(paths)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_a_dump_of_another_user_is_not_read(paths: Paths) -> None:
    dump = Path(paths.dump, "erl_crash.dump")
    dump.write_text("hunter2")
    os.chown(dump, 12345, -1)
    assert left_out(paths) == {"erl_crash.dump": "it belongs to user 12345, not to 0"}


def test_a_huge_dump_and_huge_logs_are_cut_and_that_is_said(paths: Paths) -> None:
    log, dump = Path(paths.run_app, "vm.log"), Path(paths.dump, "erl_crash.dump")
    log.write_bytes(b"old\n" + b"x" * (3 << 20) + b"\nnewest\n")
    dump.write_bytes(b"first" + os.urandom(1 << 20))
    os.truncate(dump, 8 << 30)
    packed = diagnosis.archive(paths, {})
    files = unpacking.read(packed)
    assert files["vm.log"].endswith(b"\nnewest\n")
    assert len(files["vm.log"]) == diagnosis.MAX_LOG
    assert files["erl_crash.dump"].startswith(b"first")
    assert sum(map(len, files.values())) <= diagnosis.MAX_ARCHIVE
    told = json.loads(files["facts.json"])["left_out"]
    assert told["erl_crash.dump"].endswith(f"of {8 << 30} bytes")
    assert told["vm.log"].startswith(f"{diagnosis.MAX_LOG} of ")


def test_what_does_not_compress_fits_into_what_the_server_takes(paths: Paths) -> None:
    Path(paths.dump, "erl_crash.dump").write_bytes(os.urandom(20 << 20))
    packed = diagnosis.archive(paths, {})
    sealed = b"".join(sealing.seal(packed, DEVICE, WORD, [recipients.of(KEY, "anna")] * 1))
    assert 14 << 20 < len(sealed) <= 16 << 20


# --- on its way


@pytest.fixture
def centre(authority: Authority) -> Iterator[SmallCentre]:
    made = SmallCentre(authority, Repository(now=datetime.now(UTC)))
    yield made
    made.close()


def names(centre: SmallCentre, *who: recipients.Recipient) -> None:
    """The owners of targets say who may open evidence."""
    repo = centre.repo
    top = drafts.next_targets(repo.current["targets"], "targets", repo.now, 5)
    recipients.write(top, who)
    repo.put("targets", drafts.signed(drafts.unsigned(top), repo.keys["targets"][0]))
    repo.publish()


class Handed:
    """One job, in this process, and how long it paused."""

    def __init__(self, root: Path) -> None:
        self.pauses: list[float] = []
        self._job = Job({"job": "diagnose", "root": str(root), "id": WORD})

    def run(self) -> dict[str, Any]:
        return diagnose(self._job, self.pauses.append)

    def refusal(self) -> str:
        with pytest.raises(AgentError) as refused:
            self.run()
        return refused.value.code


@pytest.fixture
def handed(centre: SmallCentre, tmp_path: Path) -> Handed:
    paths = centre.device(tmp_path / "device")
    Path(paths.dump, "erl_crash.dump").write_bytes(b"Slogan: x" + os.urandom(5 * PIECE))
    return Handed(tmp_path / "device")


def opened(centre: SmallCentre) -> dict[str, bytes]:
    header, packed = sealing.unseal(centre.evidence, KEY)
    assert (header.device, header.id) == (DEVICE, WORD)
    return unpacking.read(packed)


def test_it_is_sealed_for_whom_targets_names_and_handed_over(centre: SmallCentre, handed: Handed) -> None:
    names(centre, recipients.of(KEY, "anna"))
    assert handed.run() == {"bytes": len(centre.evidence)}
    assert b"Slogan" not in centre.evidence
    assert opened(centre)["erl_crash.dump"].startswith(b"Slogan: x")
    assert handed.pauses == []


def test_without_a_signed_key_nothing_leaves_the_device(centre: SmallCentre, handed: Handed) -> None:
    assert handed.refusal() == "evidence.no_key"
    assert centre.evidence == b""


def test_a_line_that_breaks_costs_a_piece_and_a_pause(centre: SmallCentre, handed: Handed) -> None:
    names(centre, recipients.of(KEY, "anna"))
    broken = iter(range(3))

    def keeps(offset: int, piece: bytes) -> int:
        if offset >= 4 * PIECE and next(broken, None) is not None:
            return len(piece) // 3
        return len(piece)

    centre.keeps = keeps
    handed.run()
    assert opened(centre)["erl_crash.dump"].startswith(b"Slogan: x")
    assert len(handed.pauses) == 3
    assert centre.asked.count("/evidence") == 3, "it asks how much has come, and goes on there"


def test_a_server_that_is_busy_is_asked_again_ever_more_rarely_and_then_left_alone(
    centre: SmallCentre, handed: Handed
) -> None:
    names(centre, recipients.of(KEY, "anna"))
    centre.keeps = lambda offset, piece: len(piece) if offset < 2 * PIECE else -1
    assert handed.refusal() == "worker.server"
    assert len(centre.evidence) == 2 * PIECE
    assert len(handed.pauses) == TRIES - 1
    assert handed.pauses[-1] > 8 * handed.pauses[0]
    assert sum(handed.pauses) < 300


@pytest.mark.parametrize(
    "answer", [b"", b"{}", b'{"received": -1}', b'{"received": true}', b'{"received": 99999999}', b"["]
)
def test_a_server_that_does_not_say_how_much_it_has_is_left_alone(
    centre: SmallCentre, handed: Handed, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    names(centre, recipients.of(KEY, "anna"))
    monkeypatch.setattr(centre, "progress", lambda: answer)
    assert handed.refusal() == "worker.refused"
    assert handed.pauses == []


def test_a_server_that_loses_what_it_has_is_not_served_for_ever(centre: SmallCentre, handed: Handed) -> None:
    names(centre, recipients.of(KEY, "anna"))
    pieces: list[int] = []

    def keeps(offset: int, piece: bytes) -> int:
        pieces.append(offset)
        if len(pieces) % 2:
            return len(piece)
        centre.evidence = b""
        return -1

    centre.keeps = keeps
    assert handed.refusal() == "worker.server"
    assert len(pieces) < 2 * TRIES + 2 * (1 + (6 * PIECE) // module.PIECE)
