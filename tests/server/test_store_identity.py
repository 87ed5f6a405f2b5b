"""Who gets a certificate and who keeps it: tokens for many, people's word, renewal, and the end of older ones."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from beamfleet_bundles import pki
from beamfleet_server.ca import Certificate, key_fingerprint
from beamfleet_server.errors import ServerError
from beamfleet_server.store import requests
from beamfleet_server.store.database import Change
from beamfleet_server.store.enrolment import Holder
from beamfleet_server.store.tables import certificates
from beamfleet_server.store.tokens import NewToken
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import select

from tests.support.fleet_store import FleetStore
from tests.support.postgres import Place
from tests.support.refusal import refusal

DAY = 86_400


@pytest.fixture
def fleet(tmp_path: Path, place: Place) -> Iterator[FleetStore]:
    opened = FleetStore(tmp_path, place)
    yield opened
    opened.close()


def new_key() -> ec.EllipticCurvePublicKey:
    return ec.generate_private_key(ec.SECP256R1()).public_key()


def batch(fleet: FleetStore, uses: int = 1, prefix: str = "") -> None:
    fleet.store.tokens.create(NewToken("hash", "", fleet.now + 60, {"line": "4"}, prefix=prefix, uses=uses), fleet.now)


def use(fleet: FleetStore, device: str, key: ec.EllipticCurvePublicKey | None = None) -> bytes:
    key = key or new_key()
    issue = partial(fleet.authority.issue_device, public_key=key)
    return fleet.store.enrolment.use_token(device, "hash", key_fingerprint(key), issue, fleet.now)


def serial_of(der: bytes) -> str:
    return pki.read_certificate(pki.load_certificate(der)).serial


def renew(fleet: FleetStore, der: bytes) -> bytes:
    issue = partial(fleet.authority.issue_device, public_key=new_key())
    return fleet.store.enrolment.renew(serial_of(der), der, issue, fleet.now)


def holder(fleet: FleetStore, der: bytes) -> Holder | None:
    return fleet.store.enrolment.holder(serial_of(der), der)


def seen(fleet: FleetStore, der: bytes) -> None:
    """A device asks something with this certificate."""
    found = holder(fleet, der)
    assert found is not None
    fleet.store.enrolment.seen(found, fleet.now)


# --- tokens


def test_a_token_for_many_gives_each_a_certificate_until_it_is_used_up(fleet: FleetStore) -> None:
    batch(fleet, uses=2, prefix="line-4-")
    assert refusal(use, fleet, "gw-1") == "token.wrong", "its ids begin otherwise"
    for device in ("line-4-a", "line-4-b"):
        assert pki.read_certificate(pki.load_certificate(use(fleet, device))).name == device
        assert fleet.store.devices.find(device).labels == {"line": "4"}
    assert refusal(use, fleet, "line-4-c") == "token.used"
    (listed,) = fleet.store.tokens.page(None, 10)
    assert (listed.uses, listed.uses_left, listed.used) == (2, 0, fleet.now)


def test_a_lost_answer_costs_no_use_of_a_token_for_many(fleet: FleetStore) -> None:
    batch(fleet, uses=2)
    key = new_key()
    first = use(fleet, "gw-1", key)
    use(fleet, "gw-2")
    assert use(fleet, "gw-1", key) == first
    assert refusal(use, fleet, "gw-3", key) == "token.used", "the key is gw-1's, and no use is left"


def test_a_token_for_many_never_takes_over_a_device(fleet: FleetStore) -> None:
    fleet.enrol("gw-1")
    batch(fleet, uses=5)
    assert refusal(use, fleet, "gw-1") == "device.exists"
    (listed, _) = fleet.store.tokens.page(None, 10)
    assert listed.uses_left == 5


@pytest.mark.parametrize("device", ["a/b", "+", "#", "Gw", "_server", "", "x" * 64, "gé", "a b", "-a", "a\x00"])
def test_no_token_gives_a_certificate_for_what_is_no_device_id(fleet: FleetStore, device: str) -> None:
    batch(fleet, uses=5)
    assert refusal(use, fleet, device) == "name.device"
    assert fleet.store.tokens.page(None, 10)[0].uses_left == 5
    assert fleet.store.devices.counts() == (0, 0)


def test_parallel_uses_of_a_token_for_many_give_exactly_its_number(fleet: FleetStore) -> None:
    batch(fleet, uses=7)
    with ThreadPoolExecutor(20) as pool:
        codes = list(pool.map(lambda number: refusal(use, fleet, f"gw-{number}"), range(40)))
    assert (codes.count(""), codes.count("token.used")) == (7, 33)


def test_a_token_that_was_ended_is_good_for_nothing_and_its_devices_stay(fleet: FleetStore) -> None:
    batch(fleet, uses=2)
    use(fleet, "gw-1")
    fleet.store.tokens.revoke(1)
    assert refusal(use, fleet, "gw-2") == "token.wrong"
    assert refusal(fleet.store.tokens.revoke, 1) == "token.unknown"
    assert fleet.store.devices.find("gw-1").enrolled


def test_a_bound_token_is_not_for_a_device_that_came_in_another_way_meanwhile(fleet: FleetStore) -> None:
    fleet.store.tokens.create(NewToken("bound", "gw-1", fleet.now + 60), fleet.now)
    batch(fleet)
    use(fleet, "gw-1")
    key = new_key()
    issue = partial(fleet.authority.issue_device, public_key=key)
    attempt = (fleet.store.enrolment.use_token, "gw-1", "bound", key_fingerprint(key), issue, fleet.now)
    assert refusal(*attempt) == "device.exists"


# --- a person's word


def ask(fleet: FleetStore, device: str, key: ec.EllipticCurvePublicKey, address: str = "192.0.2.1") -> bytes | int:
    issue = partial(fleet.authority.issue_device, public_key=key)
    return fleet.store.requests.ask(device, key_fingerprint(key), address, issue, fleet.now)


def test_a_device_waits_until_somebody_accepts_it_and_gets_its_certificate_once(fleet: FleetStore) -> None:
    key = new_key()
    assert ask(fleet, "gw-1", key) == fleet.now
    began, fleet.now = fleet.now, fleet.now + 120
    assert ask(fleet, "gw-1", key) == began
    (waiting,) = fleet.store.requests.all("pending")
    assert (waiting.device, waiting.fingerprint, waiting.asked) == ("gw-1", key_fingerprint(key), fleet.now)
    assert refusal(fleet.store.devices.find, "gw-1") == "device.unknown"
    assert fleet.store.requests.accept("gw-1", None, "anna", fleet.now, replace=False) == key_fingerprint(key)
    given = ask(fleet, "gw-1", key)
    assert isinstance(given, bytes)
    assert pki.load_certificate(given).public_key() == key
    assert ask(fleet, "gw-1", key) == given, "the answer may have been lost"
    assert isinstance(ask(fleet, "gw-1", new_key()), int), "another key waits like anybody"
    assert refusal(fleet.store.requests.accept, "gw-1", key_fingerprint(key), "anna", 0, replace=False) == (
        "enrolment.decided"
    )


def test_of_two_keys_for_one_id_the_person_says_which(fleet: FleetStore) -> None:
    right, wrong = new_key(), new_key()
    ask(fleet, "gw-1", wrong)
    ask(fleet, "gw-1", right)
    assert refusal(fleet.store.requests.accept, "gw-1", None, "anna", fleet.now, replace=False) == "enrolment.ambiguous"
    assert refusal(fleet.store.requests.accept, "gw-1", "0" * 64, "anna", 0, replace=False) == "enrolment.unknown"
    fleet.store.requests.accept("gw-1", key_fingerprint(right), "anna", fleet.now, replace=False)
    assert refusal(ask, fleet, "gw-1", wrong) == "enrolment.rejected"
    assert isinstance(ask(fleet, "gw-1", right), bytes)


def test_a_rejected_device_hears_of_it_and_may_still_be_accepted(fleet: FleetStore) -> None:
    key = new_key()
    ask(fleet, "gw-1", key)
    fleet.store.requests.reject("gw-1", None, "anna", fleet.now)
    assert refusal(ask, fleet, "gw-1", key) == "enrolment.rejected"
    assert refusal(fleet.store.requests.accept, "gw-1", None, "anna", 0, replace=False) == "enrolment.unknown"
    fleet.store.requests.accept("gw-1", key_fingerprint(key), "ben", fleet.now, replace=False)
    assert isinstance(ask(fleet, "gw-1", key), bytes)
    assert refusal(fleet.store.requests.reject, "gw-1", None, "anna", fleet.now) == "enrolment.unknown"


def test_an_enrolled_id_is_given_away_only_when_that_is_asked_for(fleet: FleetStore) -> None:
    fleet.enrol("gw-1")
    key = new_key()
    ask(fleet, "gw-1", key)
    assert fleet.store.requests.all()[0].known
    assert refusal(fleet.store.requests.accept, "gw-1", None, "anna", fleet.now, replace=False) == "device.exists"
    old = fleet.store.enrolment.newest_certificate("gw-1")
    fleet.store.requests.accept("gw-1", None, "anna", fleet.now, replace=True)
    assert isinstance(ask(fleet, "gw-1", key), bytes)
    assert old is not None
    assert fleet.store.enrolment.device_of(old.serial) is None


@pytest.mark.parametrize("device", ["a/b", "+", "#", "Gw", "_server", "", "x" * 64])
def test_nobody_waits_under_a_name_that_is_no_device_id(fleet: FleetStore, device: str) -> None:
    assert refusal(ask, fleet, device, new_key()) == "name.device"
    assert fleet.store.requests.all() == []


def test_how_many_wait_is_bounded_for_an_id_an_address_and_in_all(
    fleet: FleetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "MOST", 8)
    monkeypatch.setattr(requests, "MOST_OF_ADDRESS", 6)
    first = new_key()
    ask(fleet, "gw-1", first)
    for _ in range(3):
        ask(fleet, "gw-1", new_key())
    assert refusal(ask, fleet, "gw-1", new_key(), "192.0.2.2") == "enrolment.full", "of one id"
    for number in (2, 3):
        ask(fleet, f"gw-{number}", new_key())
    assert refusal(ask, fleet, "gw-4", new_key()) == "enrolment.full", "of one address"
    for number in (5, 6):
        ask(fleet, f"gw-{number}", new_key(), "192.0.2.2")
    assert refusal(ask, fleet, "gw-7", new_key(), "192.0.2.3") == "enrolment.full", "in all"
    fleet.now += DAY
    ask(fleet, "gw-1", first)
    fleet.now += 1
    ask(fleet, "gw-7", new_key(), "192.0.2.3")
    assert [each.device for each in fleet.store.requests.all()] == ["gw-1", "gw-7"], "who is silent is forgotten"


def test_an_acceptance_that_nobody_collects_ends(fleet: FleetStore) -> None:
    key = new_key()
    ask(fleet, "gw-1", key)
    fleet.store.requests.accept("gw-1", None, "anna", fleet.now, replace=False)
    fleet.now += 8 * DAY
    assert isinstance(ask(fleet, "gw-1", key), int)


# --- certificates


def test_only_exactly_the_kept_certificate_counts(fleet: FleetStore) -> None:
    batch(fleet)
    der = use(fleet, "gw-1")
    forged = fleet.authority.issue_device("gw-1", new_key()).der
    assert holder(fleet, der) is not None
    assert fleet.store.enrolment.holder(serial_of(der), forged) is None, "a known serial on another certificate"
    issue = partial(fleet.authority.issue_device, public_key=new_key())
    assert refusal(fleet.store.enrolment.renew, serial_of(der), forged, issue, 0) == "certificate.unknown"


def test_an_older_certificate_ends_when_a_newer_one_has_been_in_use_for_a_week(fleet: FleetStore) -> None:
    batch(fleet)
    old = use(fleet, "gw-1")
    seen(fleet, old)
    new = renew(fleet, old)
    fleet.now += 30 * DAY
    assert holder(fleet, old) is not None, "a newer one that was never used ends nothing"
    seen(fleet, new)
    fleet.now += 7 * DAY - 1
    seen(fleet, new)
    assert holder(fleet, old) is not None, "the device may go back for a week"
    fleet.now += DAY
    seen(fleet, new)
    assert holder(fleet, old) is None
    assert refusal(renew, fleet, old) == "certificate.unknown"
    assert holder(fleet, new) is not None
    assert fleet.store.gate.serials(fleet.now) == {serial_of(old): fleet.now}
    assert [event.cause for event in fleet.store.events.after(0, 99) if event.kind == "revoked"] == ["superseded"]


def test_a_newer_certificate_is_not_ended_by_an_older_one(fleet: FleetStore) -> None:
    batch(fleet)
    old = use(fleet, "gw-1")
    new = renew(fleet, old)
    for _ in range(20):
        fleet.now += DAY
        seen(fleet, old)
    assert holder(fleet, new) is not None


def test_that_a_certificate_is_used_is_written_once_a_day(fleet: FleetStore, monkeypatch: pytest.MonkeyPatch) -> None:
    batch(fleet)
    der = use(fleet, "gw-1")
    writes: list[int] = []
    original = fleet.store.database.write

    def counted(change: Change[Any]) -> Any:
        writes.append(1)
        return original(change)

    monkeypatch.setattr(fleet.store.database, "write", counted)
    for _ in range(48):
        seen(fleet, der)
        fleet.now += 1800
    assert len(writes) == 1
    seen(fleet, der)
    assert len(writes) == 2


def test_revoking_ends_all_certificates_and_what_is_left_of_tokens(fleet: FleetStore) -> None:
    batch(fleet)
    key = new_key()
    first = use(fleet, "gw-1", key)
    second = renew(fleet, first)
    fleet.store.tokens.create(NewToken("next", "gw-1", fleet.now + 60, replace=True), fleet.now)
    assert refusal(fleet.store.enrolment.revoke, "gw-2", None, fleet.now) == "device.unknown"
    assert refusal(fleet.store.enrolment.revoke, "gw-1", "abc", fleet.now) == "certificate.none"
    assert fleet.store.enrolment.revoke("gw-1", serial_of(second), fleet.now) == [serial_of(second)]
    assert holder(fleet, first) is not None
    assert fleet.store.enrolment.revoke("gw-1", None, fleet.now) == [serial_of(first)]
    assert fleet.store.enrolment.revoke("gw-1", None, fleet.now) == []
    assert holder(fleet, first) is holder(fleet, second) is None
    assert refusal(renew, fleet, first) == "certificate.unknown"
    assert refusal(use, fleet, "gw-1", key) == "token.used", "the same key with the same token is no way back"
    issue = partial(fleet.authority.issue_device, public_key=key)
    assert refusal(fleet.store.enrolment.use_token, "gw-1", "next", key_fingerprint(key), issue, fleet.now) == (
        "token.wrong"
    )
    assert fleet.store.devices.find("gw-1").labels == {"line": "4"}, "what is known of it stays"


def test_a_deleted_device_does_not_renew(fleet: FleetStore) -> None:
    batch(fleet)
    der = use(fleet, "gw-1")
    fleet.store.devices.remove("gw-1", fleet.now)
    assert refusal(renew, fleet, der) == "certificate.unknown"
    assert fleet.store.gate.serials(fleet.now) == {serial_of(der): fleet.now}


def test_revoked_certificates_that_have_expired_are_forgotten_at_the_next_renewal(fleet: FleetStore) -> None:
    batch(fleet)
    first = use(fleet, "gw-1")
    second = renew(fleet, first)
    fleet.store.enrolment.revoke("gw-1", serial_of(first), fleet.now)
    fleet.now += 100 * DAY
    renew(fleet, second)
    query = select(certificates.c.serial)
    kept = fleet.store.database.read(lambda connection: set(connection.scalars(query)))
    assert serial_of(first) not in kept
    assert serial_of(second) in kept, "expired, and good for a renewal"


def test_provisioning_is_enrolling_with_a_key_that_was_made_elsewhere(fleet: FleetStore) -> None:
    def provide(device: str, *, replace: bool = False) -> bytes:
        issue = partial(fleet.authority.issue_device, public_key=new_key())
        return fleet.store.enrolment.provision(device, issue, fleet.now, given={"site": "x"}, replace=replace)

    der = provide("gw-1")
    assert fleet.store.devices.find("gw-1").labels == {"site": "x"}
    assert refusal(provide, "gw-1") == "device.exists"
    assert refusal(provide, "A/b") == "name.device"
    assert holder(fleet, provide("gw-1", replace=True)) is not None
    assert holder(fleet, der) is None


def test_a_failing_signature_spends_nothing(fleet: FleetStore) -> None:
    batch(fleet)

    def broken(_: str) -> Certificate:
        raise ServerError("server.internal", "no")

    with pytest.raises(ServerError):
        fleet.store.enrolment.use_token("gw-1", "hash", "key", broken, fleet.now)
    assert use(fleet, "gw-1")
