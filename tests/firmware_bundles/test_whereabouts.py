"""The signed whereabouts of the server: a closed schema inside the top targets metadata, and how it gets there."""

import json
from typing import Any

import pytest
from beamfleet_bundles import chain, repository, whereabouts
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.whereabouts import Whereabouts

from tests.agent.authority import Authority
from tests.support.repository import NOW, Repository, resign

SERVER = {"api": "https://fleet.example:8444", "enrol": "https://fleet.example:8445", "mqtt": "fleet:8883"}


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> str:
    return Authority(tmp_path_factory.mktemp("authority")).path.read_text()


@pytest.fixture(scope="module")
def leaf(tmp_path_factory: pytest.TempPathFactory) -> str:
    return Authority(tmp_path_factory.mktemp("authority")).issue("fleet")[0].read_text()


def signed_with(repo: Repository, said: object) -> bytes:
    """Targets that say this in our place, signed well."""
    fields = {whereabouts.KEY: said}
    return resign(repo.current["targets"], repo.keys["targets"], unrecognized_fields=fields)


def refusal(said: object) -> str:
    repo = Repository(releases=())
    root = chain.verify_root(repo.root, None)
    with pytest.raises(BundleError) as refused:
        chain.verify_targets(signed_with(repo, said), root)
    assert refused.value.message.isascii()
    return refused.value.code


def test_targets_that_say_nothing_leave_everything_as_it_was_laid_down() -> None:
    repo = Repository(releases=())
    targets = chain.verify_targets(repo.current["targets"], chain.verify_root(repo.root, None))
    assert whereabouts.read(targets) == Whereabouts()
    assert whereabouts.read(targets).bundle == b""


def test_what_is_set_is_read_back_and_outlives_a_further_product(pem: str) -> None:
    repo = Repository(releases=())
    known = whereabouts.make([pem], [SERVER, {**SERVER, "mqtt": "[2001:db8::1]:8883"}])
    version = chain.parse_top_targets(repo.current["targets"]).signed.version
    repo.put("targets", repository.set_whereabouts(repo.current["targets"], known, repo.keys["targets"], NOW))
    repo.create("edge-hub")
    targets = chain.verify_targets(repo.current["targets"], chain.verify_root(repo.root, None))
    assert (whereabouts.read(targets), targets.version) == (known, version + 2)
    assert known.bundle.decode() == pem
    assert [server.mqtt for server in known.servers] == ["fleet:8883", "[2001:db8::1]:8883"]


def test_empty_ones_take_the_object_away(pem: str) -> None:
    repo = Repository(releases=())
    for known in (whereabouts.make([pem], [SERVER]), Whereabouts()):
        repo.put("targets", repository.set_whereabouts(repo.current["targets"], known, repo.keys["targets"], NOW))
    assert whereabouts.KEY not in json.loads(repo.current["targets"])["signed"]


def test_words_around_a_certificate_are_not_signed(pem: str) -> None:
    assert whereabouts.make([f"# the fleet's\n{pem}\nsome words\n"], []).authorities == (pem,)
    assert whereabouts.make([pem.replace("\n", "\r\n").encode()], []).authorities == (pem,)


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        "x",
        {"servers": [SERVER], "more": 1},
        {"servers": [{**SERVER, "more": 1}]},
        {"servers": [{key: SERVER[key] for key in ("api", "mqtt")}]},
        {"servers": [SERVER, SERVER]},
        {"servers": [{**SERVER, "mqtt": f"h{number}:1"} for number in range(9)]},
        {"servers": [{**SERVER, "mqtt": 8883}]},
        {"authorities": "PEM"},
        {"authorities": ["x" * (whereabouts.MAX_PEM + 1)]},
    ],
)
def test_what_does_not_fit_the_schema_is_refused_even_when_signed(said: object) -> None:
    assert refusal(said) == "whereabouts.schema"


@pytest.mark.parametrize(
    "api",
    [
        "http://fleet:8444",
        "https://fleet",
        "https://fleet:8444/",
        "https://fleet:8444/path",
        "https://user@fleet:8444",
        "https://fle et:8444",
        "https://fleet\n:8444",
        "https://flotte-ü:8444",
        "https://-fleet:8444",
        "https://:8444",
        "https://fleet:123456",
        f"https://{'f' * 300}:8444",
    ],
)
def test_an_address_is_a_host_and_a_port_and_nothing_else(api: str) -> None:
    assert refusal({"servers": [{**SERVER, "api": api}]}) == "whereabouts.schema"
    assert refusal({"servers": [{**SERVER, "mqtt": api}]}) == "whereabouts.schema"


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_a_port_is_one_that_exists(port: str) -> None:
    assert refusal({"servers": [{**SERVER, "mqtt": f"fleet:{port}"}]}) == "whereabouts.address"


def test_only_bare_certificates_of_authorities_are_taken(pem: str, leaf: str) -> None:
    other: list[Any] = ["", "no certificate", pem + pem, leaf, pem[:-40], pem.replace("CERTIFICATE", "PRIVATE KEY")]
    for wrong in [*other, f"words\n{pem}", f"{pem}\n"]:
        assert refusal({"authorities": [wrong]}) == "whereabouts.authority"
    assert refusal({"authorities": [pem, pem]}) == "whereabouts.schema"
    for wrong in other:
        with pytest.raises(BundleError, match="authority"):
            whereabouts.make([wrong], [])
