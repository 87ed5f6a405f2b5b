"""Keys and thresholds: who must have signed what, for every kind of key of the specification."""

import json
from dataclasses import dataclass

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from tests.conformance.stage import ALL, CONTENT, ONLINE, Client, Play


def test_a_snapshot_below_its_threshold_is_refused(client: Client, play: Play) -> None:
    play.root.roles["snapshot"].threshold = 3
    for _ in range(2):
        play.new_key("snapshot")
    play.publish(*ALL)
    assert client.refresh(play) == 0
    play.signers["snapshot"].pop()
    play.publish(*CONTENT)
    assert client.refresh(play) == 1
    assert client.trusted()["snapshot"] == 2


def test_a_threshold_above_the_number_of_keys_cannot_be_met(client: Client, play: Play) -> None:
    for _ in range(4):
        play.new_key("snapshot")
    play.root.roles["snapshot"].threshold = 6
    play.publish("root", *ONLINE)
    assert client.refresh(play) == 1
    assert client.trusted() == {"root": 2, "timestamp": 2}


def test_a_key_that_is_listed_twice_counts_once(client: Client, play: Play) -> None:
    again = play.new_key("snapshot").public_key.keyid
    play.root.roles["snapshot"].threshold = 6
    play.root.version += 1
    document = json.loads(play.sign("root"))
    document["signed"]["roles"]["snapshot"]["keyids"] += [again] * 8
    payload = json.dumps(document["signed"], sort_keys=True, separators=(",", ":"))  # python-tuf makes no such root
    signature = play.signers["root"][0].sign(payload.encode())
    document["signatures"] = [{"keyid": signature.keyid, "sig": signature.signature}]
    play.put("root", json.dumps(document).encode())
    play.publish(*ONLINE)
    many = json.loads(play.current("snapshot"))
    many["signatures"] += [each for each in many["signatures"] if each["keyid"] == again] * 8
    play.served[play.place("snapshot", 2)] = json.dumps(many).encode()
    assert client.refresh(play) == 1
    assert "snapshot" not in client.trusted()


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "root"])
def test_a_signature_that_is_there_twice_is_refused(client: Client, play: Play, role: str) -> None:
    play.publish(*ALL)
    document = json.loads(play.current(role))
    document["signatures"] += document["signatures"][:1]
    play.served[play.place(role, 2)] = json.dumps(document).encode()
    assert client.refresh(play) == 1
    assert client.trusted().get(role, 1) == 1


def test_one_key_under_two_names_does_not_make_two(client: Client, play: Play) -> None:
    """The threshold is of keys; a thief with one of them could list it under another id."""
    play.root.roles["snapshot"].threshold = 2
    (signer,) = play.signers["snapshot"]
    play.publish("root", *ONLINE)
    document = json.loads(play.current("snapshot"))
    document["signatures"].append({**document["signatures"][0], "keyid": "f" * 64})
    play.served[play.place("snapshot", 2)] = json.dumps(document).encode()
    assert signer.public_key.keyid != "f" * 64
    assert client.refresh(play) == 1


KINDS = {
    "ed25519": CryptoSigner.generate_ed25519,
    "ecdsa": CryptoSigner.generate_ecdsa,
    "rsa-pss": lambda: CryptoSigner.generate_rsa(size=2048),
    "rsa-pkcs1v15": lambda: CryptoSigner.generate_rsa(scheme="rsa-pkcs1v15-sha256", size=2048),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_key_signs_and_its_wrong_signatures_are_seen(client: Client, play: Play, kind: str) -> None:
    signer = play.new_key("root", KINDS[kind]())  # type: ignore[no-untyped-call]
    play.root.roles["root"].threshold = 2
    for role in CONTENT:
        play.new_key(role, signer)
        play.root.roles[role].threshold = 2
    play.publish(*ALL)
    assert client.refresh(play) == 0
    assert client.trusted() == {**dict.fromkeys(CONTENT, 2), "root": 2}
    play.publish("root")
    document: Metadata[Root] = Metadata.from_bytes(play.current("root"))
    keyid = signer.public_key.keyid
    document.signatures[keyid].signature = Metadata.from_bytes(
        play.served["metadata/2.root.json"]
    ).signatures[keyid].signature  # fmt: skip
    play.served["metadata/3.root.json"] = document.to_bytes()
    assert client.refresh(play) == 1
    assert client.trusted()["root"] == 2


@pytest.mark.parametrize("wrong", ["", "00" * 64, "not even hex"])
def test_a_wrong_signature_beside_enough_right_ones_does_no_harm(client: Client, play: Play, wrong: str) -> None:
    first = play.signers["timestamp"][0].public_key.keyid
    play.new_key("timestamp")
    play.publish("root", "timestamp")
    document = json.loads(play.current("timestamp"))
    for each in document["signatures"]:
        if each["keyid"] == first:
            each["sig"] = wrong
    play.served["metadata/timestamp.json"] = json.dumps(document).encode()
    assert client.refresh(play) == 0
    assert client.trusted()["timestamp"] == 2


# -- rotations: keys, threshold, signatures of one version after the other


@dataclass(frozen=True, slots=True)
class Turn:
    """One version: the keys that the role has, how many it takes, and who signs."""

    keys: str
    threshold: int
    signed: str


GOOD_ROOTS = {
    "the same key signs on": [Turn("a", 1, "a"), Turn("a", 1, "a")],
    "one key for another": [Turn("a", 1, "a"), Turn("b", 1, "ba"), Turn("b", 1, "b")],
    "strangers sign as well": [Turn("a", 1, "xay"), Turn("b", 1, "xbay"), Turn("b", 1, "xby")],
    "any three of five": [Turn("abcde", 3, each) for each in ("ace", "aeb", "abd", "abd", "cde")],
    "one of five for another": [Turn("abcde", 3, "ace"), Turn("abdef", 3, "aeb")],
    "one of five for another, signed by more": [
        Turn("abcde", 3, "ace"), Turn("abdef", 3, "acef"), Turn("abdef", 3, "aef"),
    ],
    "all five for others": [Turn("abcde", 3, "ace"), Turn("fghij", 3, "acefgh"), Turn("fghij", 3, "fgh")],
    "a higher threshold": [Turn("abc", 1, "a"), Turn("abc", 2, "ab")],
    "a lower threshold": [Turn("abc", 2, "ab"), Turn("abc", 1, "ab"), Turn("abc", 1, "a")],
    "a second key, and both": [Turn("a", 1, "a"), Turn("ab", 2, "ab")],
}  # fmt: skip
BAD_ROOTS = {
    "not by the old key": [Turn("a", 1, "a"), Turn("b", 1, "bxy")],
    "not by the new key": [Turn("a", 1, "a"), Turn("b", 1, "axy")],
    "by too few of the new ones": [Turn("abcde", 3, "ace"), Turn("abdef", 3, "ace")],
    "by too few of the old ones": [Turn("abcde", 3, "ace"), Turn("abdef", 3, "aef")],
    "below its own higher threshold": [Turn("abc", 1, "a"), Turn("abc", 2, "b")],
    "below the old threshold, which it lowers": [Turn("abc", 2, "ab"), Turn("abc", 1, "a")],
    "by nobody": [Turn("a", 1, "a"), Turn("a", 1, "")],
}


def take(play: Play, role: str, turn: Turn, keys: dict[str, CryptoSigner]) -> None:
    """`role` has the keys of this turn from now on."""
    play.root.roles[role].keyids.clear()
    play.root.roles[role].threshold = turn.threshold
    for name in turn.keys:
        play.root.add_key(keys[name].public_key, role)
    play.signers[role] = [keys[name] for name in turn.signed]


@pytest.fixture(scope="module")
def keys() -> dict[str, CryptoSigner]:
    return {name: CryptoSigner.generate_ed25519() for name in "abcdefghijxy"}


@pytest.mark.parametrize(
    ("turns", "good"),
    [pytest.param(turns, True, id=name) for name, turns in GOOD_ROOTS.items()]
    + [pytest.param(turns, False, id=name) for name, turns in BAD_ROOTS.items()],
)
def test_a_root_needs_its_own_threshold_and_the_one_before(
    fresh: Client, play: Play, keys: dict[str, CryptoSigner], turns: list[Turn], good: bool
) -> None:
    play.restart("root")
    for turn in turns:
        take(play, "root", turn, keys)
        play.publish("root")
    assert fresh.init(play, play.served["metadata/1.root.json"]) == 0
    assert fresh.refresh(play) == (0 if good else 1)
    newest = len(turns) if good else len(turns) - 1
    assert fresh.holds("root") == play.served[f"metadata/{newest}.root.json"]


GOOD_TURNS = {
    "another key": Turn("b", 1, "b"),
    "strangers sign as well": Turn("a", 1, "xay"),
    **{f"three of five: {each}": Turn("abcde", 3, each) for each in ("ace", "aeb", "abd", "bcd", "cde")},
}
BAD_TURNS = {
    "by another key than its own": Turn("b", 1, "axy"),
    "by one of another five": Turn("abdef", 3, "ace"),
    "by too few": Turn("abdef", 3, "ae"),
}


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
@pytest.mark.parametrize(
    ("turn", "good"),
    [pytest.param(turn, True, id=name) for name, turn in GOOD_TURNS.items()]
    + [pytest.param(turn, False, id=name) for name, turn in BAD_TURNS.items()],
)
def test_the_root_says_whose_signatures_count(
    client: Client, play: Play, keys: dict[str, CryptoSigner], role: str, turn: Turn, good: bool
) -> None:
    assert client.refresh(play) == 0
    take(play, role, turn, keys)
    play.publish(*ALL)
    assert client.refresh(play) == (0 if good else 1)
    assert client.trusted()["root"] == 2
    assert client.holds(role) == play.served[play.place(role, 2)] if good else client.trusted()[role] == 1
