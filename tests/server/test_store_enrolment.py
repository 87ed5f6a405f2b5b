"""One-time tokens: one certificate, whoever asks however often at the same time."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from beamfleet_bundles import pki
from beamfleet_server.ca import key_fingerprint
from beamfleet_server.errors import ServerError
from beamfleet_server.store.reports import Report
from beamfleet_server.store.tokens import NewToken
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.fleet_store import FleetStore, event
from tests.support.postgres import Place
from tests.support.refusal import refusal


@pytest.fixture
def fleet(tmp_path: Path, place: Place) -> Iterator[FleetStore]:
    opened = FleetStore(tmp_path, place)
    yield opened
    opened.close()


HASH = "hash"


def new_key() -> ec.EllipticCurvePublicKey:
    return ec.generate_private_key(ec.SECP256R1()).public_key()


def give(fleet: FleetStore, *, replace: bool = False, lives_s: int = 60, secret: str = HASH) -> None:
    token = NewToken(secret, "dev-1", fleet.now + lives_s, {"site": "berlin"}, replace=replace)
    fleet.store.tokens.create(token, fleet.now)


def use(fleet: FleetStore, key: ec.EllipticCurvePublicKey, *, device: str = "dev-1", secret: str = HASH) -> bytes:
    issue = fleet.authority.issue_device
    return fleet.store.enrolment.use_token(
        device, secret, key_fingerprint(key), lambda name: issue(name, key), fleet.now
    )


def test_a_token_is_good_for_one_certificate_with_its_labels(fleet: FleetStore) -> None:
    give(fleet)
    facts = pki.read_certificate(pki.load_certificate(use(fleet, new_key())))
    assert facts.name == "dev-1"
    assert fleet.store.enrolment.device_of(facts.serial) == "dev-1"
    assert fleet.store.devices.find("dev-1").labels == {"site": "berlin"}


def test_fifty_parallel_uses_give_one_certificate(fleet: FleetStore) -> None:
    give(fleet)
    keys = [new_key() for _ in range(50)]

    def attempt(key: ec.EllipticCurvePublicKey) -> bytes | str:
        try:
            return use(fleet, key)
        except ServerError as error:
            return error.code

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(attempt, keys))
    assert len([answer for answer in answers if isinstance(answer, bytes)]) == 1
    assert answers.count("token.used") == 49


def test_the_same_key_gets_the_same_certificate_while_the_token_lives(fleet: FleetStore) -> None:
    give(fleet)
    key = new_key()
    first = use(fleet, key)
    fleet.now += 59
    assert use(fleet, key) == first
    assert refusal(use, fleet, new_key()) == "token.used"
    fleet.now += 1
    assert refusal(use, fleet, key) == "token.expired"


@pytest.mark.parametrize(("device", "token"), [("dev-1", "another"), ("dev-2", "hash"), ("", ""), ("../x", "hash")])
def test_a_wrong_token_or_id_is_refused(fleet: FleetStore, device: str, token: str) -> None:
    give(fleet)
    assert refusal(use, fleet, new_key(), device=device, secret=token) == "token.wrong"


def test_an_expired_token_is_refused(fleet: FleetStore) -> None:
    give(fleet)
    fleet.now += 60
    assert refusal(use, fleet, new_key()) == "token.expired"


def test_a_newer_token_ends_the_one_that_was_not_used(fleet: FleetStore) -> None:
    give(fleet)
    give(fleet, secret="newer")
    assert refusal(use, fleet, new_key()) == "token.wrong"
    use(fleet, new_key(), secret="newer")


def test_an_enrolled_device_is_replaced_only_when_that_is_asked_for(fleet: FleetStore) -> None:
    give(fleet)
    old = pki.read_certificate(pki.load_certificate(use(fleet, new_key())))
    fleet.report("dev-1", starts=7)
    fleet.apply(Report("dev-1", "main", "event", event(1, 1)))
    assert refusal(give, fleet, secret="second") == "device.exists"
    give(fleet, secret="second", replace=True)
    new = pki.read_certificate(pki.load_certificate(use(fleet, new_key(), secret="second")))
    assert fleet.store.enrolment.device_of(old.serial) is None
    assert fleet.store.enrolment.device_of(new.serial) == "dev-1"
    assert fleet.store.devices.find("dev-1").state is None, "the new device begins to count at zero"
    outcome = fleet.apply(Report("dev-1", "main", "event", event(1, 1)))
    assert outcome.acks == {("dev-1", "main"): (1, 1)}
    assert len([each for each in fleet.store.events.after(0, 100) if each.kind == "restart"]) == 2


def test_a_certificate_renews_itself_and_a_revoked_one_does_not(fleet: FleetStore) -> None:
    give(fleet)
    der = use(fleet, new_key())
    serial = pki.read_certificate(pki.load_certificate(der)).serial
    key = new_key()
    issue = partial(fleet.authority.issue_device, public_key=key)
    renewed = fleet.store.enrolment.renew(serial, der, issue, fleet.now)
    assert pki.read_certificate(pki.load_certificate(renewed)).name == "dev-1"
    give(fleet, secret="second", replace=True)
    use(fleet, new_key(), secret="second")
    assert refusal(fleet.store.enrolment.renew, serial, der, issue, fleet.now) == "certificate.unknown"
