"""Delegations: which role may speak for a path, in which order they are asked, and names that look like paths."""

import hashlib
from dataclasses import dataclass
from urllib.parse import quote

import pytest
from tuf.api.metadata import Targets

from tests.conformance.stage import CONTENT, Client, Play


@dataclass(frozen=True, slots=True)
class Edge:
    """`by` delegates `paths` to `to`."""

    by: str
    to: str
    paths: tuple[str, ...] = ("*",)
    terminating: bool = False


PY = ("*.py",)
GRAPHS: dict[str, tuple[list[Edge], str]] = {
    "one role": ([Edge("targets", "A")], "A"),
    "two roles, in their order": ([Edge("targets", "B"), Edge("targets", "A")], "BA"),
    "a role below the second": ([Edge("targets", "A"), Edge("targets", "B"), Edge("B", "C")], "ABC"),
    "depth before breadth": (
        [Edge("targets", "A"), Edge("targets", "B"), Edge("A", "C"), Edge("A", "D")], "ACDB",
    ),
    "three levels deep": (
        [Edge("targets", "A"), Edge("targets", "B"), Edge("A", "C"), Edge("C", "D")], "ACDB",
    ),
    "terminating ends the search": (
        [Edge("targets", "A"), Edge("targets", "B"), Edge("A", "C", terminating=True), Edge("A", "D")], "AC",
    ),
    "terminating lets its own be asked": (
        [Edge("targets", "A"), Edge("targets", "B"), Edge("A", "C", terminating=True), Edge("C", "D")], "ACD",
    ),
    "terminating at the top": ([Edge("targets", "A", terminating=True), Edge("targets", "B")], "A"),
    "terminating for other paths ends nothing": (
        [Edge("targets", "A", PY, terminating=True), Edge("targets", "B")], "B",
    ),
    "a branch for other paths": ([Edge("targets", "A", PY), Edge("targets", "B"), Edge("A", "C")], "B"),
    "a deeper branch for other paths": (
        [Edge("targets", "A"), Edge("targets", "B"), Edge("A", "C", PY), Edge("C", "D")], "AB",
    ),
    "a circle": (
        [Edge("targets", "A"), Edge("targets", "B"), Edge("B", "C"), Edge("C", "D"), Edge("D", "B")], "ABCD",
    ),
    "a role that delegates to itself": ([Edge("targets", "A"), Edge("A", "A"), Edge("targets", "B")], "AB"),
    "two ways to one role": (
        [Edge("targets", "A"), Edge("targets", "B"), Edge("B", "C"), Edge("A", "C")], "ACB",
    ),
    "two ways, one of them for other paths": (
        [Edge("targets", "A"), Edge("targets", "B"), Edge("B", "C"), Edge("A", "C", PY)], "ABC",
    ),
}  # fmt: skip


def build(play: Play, edges: list[Edge]) -> None:
    """These delegations, not yet published."""
    for edge in edges:
        play.delegate(edge.by, edge.to, list(edge.paths), terminating=edge.terminating)


@pytest.mark.parametrize(("edges", "order"), GRAPHS.values(), ids=GRAPHS)
def test_roles_are_asked_depth_first_in_the_order_of_their_delegation(
    client: Client, play: Play, edges: list[Edge], order: str
) -> None:
    build(play, edges)
    play.publish(*sorted(set(order) | {edge.to for edge in edges}), *CONTENT)
    assert client.download(play, "nowhere") == 1
    assert play.asked[4:] == [f"1.{role}" for role in order]
    assert set(client.trusted()) == {"root", *CONTENT, *order}
    assert client.download(play, "nowhere") == 1
    assert play.asked == ["2.root", "timestamp"]  # the rest is known


TREE = [
    Edge("targets", "A", ("*.doc", "*.md")),
    Edge("targets", "B", ("releases/*/*",)),
    Edge("B", "C", ("releases/x/*",)),
    Edge("B", "D", ("releases/y/*.zip",)),
]


@pytest.mark.parametrize(
    ("path", "found", "order"),
    [
        ("top", True, ""),
        ("README.md", True, "A"),
        ("releases/x/one", True, "BC"),
        ("releases/y/one.zip", True, "BD"),
        ("releases/z/one.zip", False, "B"),
        ("docs/README.md", False, ""),
        ("releases/x/deeper/one", False, ""),
        ("releases/one", False, ""),
    ],
)
def test_a_target_is_found_where_every_role_on_the_way_lets_it_be_spoken_for(
    client: Client, play: Play, path: str, found: bool, order: str
) -> None:
    build(play, TREE)
    play.add("targets", "top", b"top")
    play.add("A", "README.md", b"A")
    play.add("A", "docs/README.md", b"A")
    for place in ("releases/x/one", "releases/x/deeper/one", "releases/one"):
        play.add("C", place, b"C")
    for place in ("releases/y/one.zip", "releases/z/one.zip"):
        play.add("D", place, b"D")
    play.publish("A", "B", "C", "D", *CONTENT)
    assert client.download(play, path) == (0 if found else 1)
    assert play.asked[4:] == [f"1.{role}" for role in order]
    assert len(client.downloaded()) == found


def test_the_first_role_that_knows_a_path_has_the_word(client: Client, play: Play) -> None:
    build(play, [Edge("targets", "A"), Edge("targets", "B")])
    play.add("B", "file", b"by B")
    play.add("A", "file", b"by A")
    play.publish("A", "B", *CONTENT)
    assert client.download(play, "file") == 0
    assert client.downloaded() == [b"by A"]


@pytest.mark.parametrize("path", ["a/b.bin", "other"])
def test_a_role_may_be_named_for_hashes_of_paths(client: Client, play: Play, path: str) -> None:
    digest = hashlib.sha256(path.encode()).hexdigest()
    play.delegate("targets", "away", path_hash_prefixes=[f"{(int(digest[0], 16) + 1) % 16:x}"])
    play.delegate("targets", "here", path_hash_prefixes=["zz", digest[:3]])
    play.add("away", path, b"away")
    play.add("here", path, b"here")
    play.publish("away", "here", *CONTENT)
    assert client.download(play, path) == 0
    assert client.downloaded() == [b"here"]
    assert play.asked[4:] == ["1.here"]


def test_a_path_is_looked_for_in_its_own_bin(client: Client, play: Play) -> None:
    play.delegate_bins(2, "bin")
    bins = ["bin-0", "bin-1", "bin-2", "bin-3"]
    owner = bins[int(hashlib.sha256(b"some/file").hexdigest()[:1], 16) >> 2]
    for name in bins:
        play.add(name, "some/file", name.encode())
    play.publish(*bins, *CONTENT)
    assert client.download(play, "some/file") == 0
    assert client.downloaded() == [owner.encode()]
    assert play.asked[4:] == [f"1.{owner}"]


@pytest.mark.parametrize("spoil", ["unsigned", "stranger", "missing", "unlisted", "version"])
def test_a_delegated_role_that_is_not_as_it_should_be_ends_the_search(client: Client, play: Play, spoil: str) -> None:
    build(play, [Edge("targets", "A"), Edge("targets", "B")])
    play.add("B", "file", b"content")
    play.publish("A", "B", *CONTENT)
    match spoil:
        case "unsigned":
            play.signers["A"].clear()
            play.put("A", play.sign("A"))
        case "stranger":
            play.signers["A"] = play.signers["B"]
            play.put("A", play.sign("A"))
        case "missing":
            del play.served["metadata/1.A.json"]
        case "unlisted":
            del play.signed["snapshot"].meta["A.json"]
            play.publish("snapshot", "timestamp")
        case "version":
            play.signed["A"].version = 5
            play.served["metadata/1.A.json"] = play.sign("A")
    assert client.download(play, "file") == 1
    assert client.downloaded() == []
    assert "A" not in client.trusted()


def test_a_role_below_the_threshold_of_its_delegation_is_refused(client: Client, play: Play) -> None:
    play.delegate("targets", "A", threshold=2)
    play.new_key("A", delegator="targets")
    play.add("A", "file", b"content")
    play.publish("A", *CONTENT)
    assert client.download(play, "file") == 0
    play.signers["A"].pop()
    play.publish("A", *CONTENT)
    assert client.download(play, "file") == 1
    assert client.trusted()["A"] == 1


def test_two_roads_to_one_role_are_each_held_to_their_own_keys(client: Client, play: Play) -> None:
    build(play, [Edge("targets", "A"), Edge("targets", "B"), Edge("A", "C", PY), Edge("B", "C")])
    second: Targets = play.signed["B"]
    assert second.delegations is not None
    assert second.delegations.roles is not None
    play.signers["C"].clear()
    second.delegations.roles["C"].keyids.clear()
    play.new_key("C", delegator="B")
    play.add("C", "file.py", b"signed for B alone")
    play.add("C", "file", b"signed for B alone")
    play.publish("A", "B", "C", *CONTENT)
    assert client.download(play, "file") == 0
    assert client.download(play, "file.py") == 1  # the way over A comes first, and has another key


@pytest.mark.parametrize(
    "role",
    ["?", "#", "/role", "../role", "../../../../role", ".", "..", "a b", "ü", "%2e%2e", "a%2fb", "a\\b", "-", "1.x"],
)
def test_the_name_of_a_role_is_only_ever_a_name(client: Client, play: Play, role: str) -> None:
    play.delegate("targets", role)
    play.add(role, "file", b"content")
    play.publish(role, *CONTENT)
    before = set(client.metadata.parent.rglob("*"))
    assert client.download(play, "file") == 0
    assert play.requests[4] == f"metadata/1.{quote(role, '')}.json"
    assert len(client.trusted()) == 5
    places = {path.parent for path in set(client.metadata.parent.rglob("*")) - before}
    assert places == {client.metadata, client.metadata.parent, client.targets}


def test_not_more_roles_are_asked_than_a_check_may(client: Client, play: Play) -> None:
    names = [f"r{number:02}" for number in range(40)]
    for name in names:
        play.delegate("targets", name)
    play.add(names[-1], "file", b"content")
    play.add(names[5], "near", b"content")
    play.publish(*names, *CONTENT)
    assert client.download(play, "near") == 0
    assert client.download(play, "file") == 1
    assert len(client.trusted()) < 40
