"""What the server keeps of evidence: what was asked for, whole, sealed, bounded, and nothing else."""

from pathlib import Path

import pytest
from beamfleet_bundles import recipients
from beamfleet_bundles.sealing import seal
from beamfleet_server import evidence as module
from beamfleet_server.errors import ServerError
from beamfleet_server.evidence import EvidenceFiles
from beamfleet_server.relay import MOST_WAITING, Relay
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

NOW = 1_800_000_000
WORD = "0123456789abcdef"
WHO = [recipients.of(X25519PrivateKey.generate(), "anna")]


def sealed(content: bytes = b"x" * 100_000, device: str = "gw-1", word: str = WORD) -> bytes:
    return b"".join(seal(content, device, word, WHO))


@pytest.fixture
def files(tmp_path: Path) -> EvidenceFiles:
    return EvidenceFiles(tmp_path)


def refusal(files: EvidenceFiles, offset: int, total: int, piece: bytes, word: str = WORD, now: int = NOW) -> str:
    with pytest.raises(ServerError) as refused:
        files.take("gw-1", word, offset, total, piece, now)
    return refused.value.code


def test_it_comes_in_pieces_also_twice_and_goes_on_where_it_broke(files: EvidenceFiles) -> None:
    data = sealed()
    files.ask("gw-1", WORD, NOW)
    assert files.take("gw-1", WORD, 0, len(data), data[:60_000], NOW).bytes == 60_000
    assert files.take("gw-1", WORD, 0, len(data), data[:60_000], NOW).bytes == 60_000
    assert refusal(files, 70_000, len(data), data[70_000:]) == "evidence.offset"
    again = EvidenceFiles(files._directory)  # the server starts again
    assert again.find("gw-1", WORD).bytes == 60_000
    assert again.take("gw-1", WORD, 50_000, len(data), data[50_000:], NOW).state == "complete"
    held = again.find("gw-1", WORD)
    assert (held.state, held.time, held.path.read_bytes()) == ("complete", NOW, data)
    assert again.take("gw-1", WORD, 0, len(data), b"other", NOW).bytes == len(data), "it is whole: nothing changes it"


def test_only_what_was_asked_for_is_taken_and_not_for_ever(files: EvidenceFiles) -> None:
    data = sealed()
    assert refusal(files, 0, len(data), data) == "evidence.unknown"
    files.ask("gw-1", WORD, NOW)
    assert refusal(files, 0, len(data), data, "f" * 16) == "evidence.unknown"
    with pytest.raises(ServerError, match="no evidence"):
        files.take("gw-2", WORD, 0, len(data), data, NOW)
    assert refusal(files, 0, len(data), data, now=NOW + module.PATIENCE_S) == "evidence.unknown"


def test_more_than_the_cap_is_refused_and_forgotten(files: EvidenceFiles) -> None:
    files.ask("gw-1", WORD, NOW)
    assert refusal(files, 0, module.MAX_BYTES + 1, b"x") == "evidence.too_large"
    assert files.of("gw-1") == []
    files.ask("gw-1", WORD, NOW)
    assert refusal(files, 0, 10, b"x" * 11) == "evidence.too_large"


@pytest.mark.parametrize(
    "data", [b"x" * 100, sealed(device="gw-2"), sealed(word="f" * 16)], ids=["plain", "another device's", "another"]
)
def test_what_is_not_this_evidence_is_not_kept(files: EvidenceFiles, data: bytes) -> None:
    files.ask("gw-1", WORD, NOW)
    assert refusal(files, 0, len(data), data) == "evidence.malformed"
    assert files.of("gw-1") == []


def test_the_newest_five_of_a_device_are_kept_and_what_never_came_goes(files: EvidenceFiles) -> None:
    for number in range(8):
        files.ask("gw-1", f"{number:016x}", NOW + number)
    assert [each.id for each in files.of("gw-1")] == [f"{number:016x}" for number in (7, 6, 5, 4, 3)]
    files.ask("gw-1", WORD, NOW + module.PATIENCE_S + 10)
    assert [each.id for each in files.of("gw-1")] == [WORD]


def hand_in(files: EvidenceFiles, device: str, number: int) -> None:
    word = f"{number:016x}"
    whole = sealed(device=device, word=word)
    files.take(device, word, 0, len(whole), whole, NOW + number)


def test_what_is_asked_again_and_never_comes_takes_the_place_of_nothing_whole(files: EvidenceFiles) -> None:
    for number in range(4):
        files.ask("gw-1", f"{number:016x}", NOW + number)
        hand_in(files, "gw-1", number)
    for number in range(4, 8):
        files.ask("gw-1", f"{number:016x}", NOW + number)
    assert [int(each.id, 16) for each in files.of("gw-1")] == [7, 3, 2, 1, 0]


def test_many_that_are_asked_at_once_do_not_outgrow_the_fleets_share(
    files: EvidenceFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", module.MAX_BYTES + len(sealed(device="gw-0", word="0" * 16)))
    for number in range(3):
        files.ask(f"gw-{number}", f"{number:016x}", NOW + number)
    for number in range(3):
        hand_in(files, f"gw-{number}", number)
    assert [len(files.of(f"gw-{number}")) for number in range(3)] == [0, 0, 1]


def test_of_the_fleet_the_oldest_goes_first(files: EvidenceFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    data = sealed()
    for number in range(3):
        word = f"{number:016x}"
        files.ask(f"gw-{number}", word, NOW + number)
        whole = sealed(device=f"gw-{number}", word=word)
        files.take(f"gw-{number}", word, 0, len(whole), whole, NOW + number)
    monkeypatch.setattr(module, "MOST_BYTES", module.MAX_BYTES + 2 * len(data))
    files.ask("gw-9", WORD, NOW + 9)
    assert [len(files.of(f"gw-{number}")) for number in (0, 1, 2, 9)] == [0, 1, 1, 1]


def test_it_goes_with_its_device_and_strange_files_are_nobodys(files: EvidenceFiles, tmp_path: Path) -> None:
    (tmp_path / "strange").write_text("x")
    files.ask("gw-1", WORD, NOW)
    (tmp_path / "gw-1" / "notes").write_text("x")
    assert [each.id for each in files.of("gw-1")] == [WORD]
    files.forget("gw-1")
    assert not (tmp_path / "gw-1").exists()
    files.forget("gw-1")
    files.ask("gw-1", WORD, NOW)
    files.delete("gw-1", WORD)
    with pytest.raises(ServerError) as refused:
        files.delete("gw-1", WORD)
    assert refused.value.code == "evidence.unknown"


@pytest.mark.parametrize("device", ["../gw", "", "a/b", "GW"])
def test_no_name_leads_out_of_the_directory(files: EvidenceFiles, device: str) -> None:
    for act in (lambda: files.of(device), lambda: files.ask(device, WORD, NOW), lambda: files.forget(device)):
        with pytest.raises(Exception, match="device"):
            act()


def test_a_disk_that_cannot_be_written_is_told(files: EvidenceFiles, tmp_path: Path) -> None:
    (tmp_path / "gw-1").write_text("in the way")
    with pytest.raises(ServerError) as refused:
        files.ask("gw-1", WORD, NOW)
    assert refused.value.code == "server.disk_full"


def test_a_log_goes_to_who_reads_it_and_to_nobody_else() -> None:
    relay = Relay()
    anna, ben = relay.open("gw-1", "a"), relay.open("gw-1", "b")
    said = {"id": "a", "lines": ["one", "two"], "missed": 0, "end": False}
    relay.take("gw-1", said)
    relay.take("gw-2", said)
    relay.take("gw-1", {**said, "id": "nobody"})
    assert (anna.messages.get_nowait(), anna.messages.empty(), ben.messages.empty()) == (said, True, True)
    for _ in range(MOST_WAITING + 3):
        relay.take("gw-1", said)
    assert (anna.messages.qsize(), anna.missed) == (MOST_WAITING, 6)
    relay.close(anna)
    relay.take("gw-1", said)
    for word in ("c", "d", "e"):
        relay.open("gw-1", word)
    with pytest.raises(ServerError) as refused:
        relay.open("gw-1", "f")
    assert refused.value.code == "stream.full"
    relay.open("gw-2", "f")
