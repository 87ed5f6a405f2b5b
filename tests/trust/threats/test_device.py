"""A stolen device, with its disk and its key, and one that was copied: it opens its own topics and downloads and no
more, there is nothing of the fleet on it, it is cut off when its owner says so, and a second one of it is noticed."""

import base64
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
from beamfleet_bundles import pki, topics
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from tests.support.fleet import Device, Fleet, wait_for
from tests.support.interception import identity_of
from tests.support.mqtt_device import MqttDevice
from tests.support.server import Identity
from tests.trust.threats.captive import logged, running_device, start_rollout

pytestmark = pytest.mark.suite(name="trust")

MARK = b"kept by whoever may not"


@pytest.fixture(scope="module")
def victim(here: Fleet) -> Device:
    """A device of the fleet, with its session and its release."""
    return running_device(here, "victim")


@pytest.fixture(scope="module")
def stolen(here: Fleet, work: Path) -> Identity:
    """The key of another device, in the hands of whoever took it."""
    device = here.flash("stolen", labels={"name": "stolen"})
    here.wait_online("stolen")
    device.stop()
    certificate, key = identity_of(device)
    taken = work / "stolen"
    taken.mkdir()
    shutil.copy(key, taken / "key.pem")
    shutil.copy(certificate, taken / "cert.pem")
    return Identity("stolen", taken / "key.pem", taken / "cert.pem")


def connected(here: Fleet, identity: Identity, subscribe: str = "#") -> MqttDevice:
    return MqttDevice(identity, here.address("mqtt"), here.data / "ca.pem", subscribe=subscribe)


def retained(here: Fleet) -> bytes:
    """Everything that the broker keeps, which it writes down when it is asked to."""
    kept, broker = here.data / "broker/mosquitto.db", here.broker_pid()
    before = kept.stat().st_mtime_ns if kept.exists() else 0
    assert broker
    os.kill(broker, signal.SIGUSR1)
    wait_for("the broker to write", lambda: kept.exists() and kept.stat().st_mtime_ns > before, deadline_s=20)
    return kept.read_bytes()


def test_under_the_name_of_another_it_is_still_itself(here: Fleet, victim: Device, stolen: Identity) -> None:
    before = len(logged(victim, "session down"))
    pretended = Identity("victim", stolen.key, stolen.certificate)
    thief = connected(here, pretended, "beamfleet/v1/victim/#")
    for kind in topics.UP_KINDS:
        assert thief.publish(kind, MARK) == "Not authorized"
    start_rollout(here, "victim", "1.0.0")  # signed again for the victim, and published
    here.cli("device", "show", "victim")
    thief.close()
    assert thief.received == []
    assert len(logged(victim, "session down")) == before
    here.wait_online("victim", deadline_s=5)


def test_a_thousand_retained_topics_are_neither_delivered_nor_kept(
    here: Fleet, victim: Device, stolen: Identity
) -> None:
    thief, listening = connected(here, stolen), connected(here, stolen)
    places = (
        "v1/victim/main/down/desired", "v1/victim/main/up/state", "v1/_server/epoch", "v1/stolen/main/down/desired",
        "v1/stolen/main/up/more", "v1/stolen/other/up/state", "v2/stolen/main/up/state", "v1/stolen/../victim",
    )  # fmt: skip
    forbidden = [f"beamfleet/{place}" for place in places] + ["$SYS/broker", "homes/stolen"]
    for number in range(990):  # the answers would be slow: mosquitto gives ten a second to whoever may not
        thief._client.publish(f"{forbidden[number % len(forbidden)]}{number}", MARK, qos=0, retain=True)
    assert set(told(thief, forbidden, MARK)) == {"Not authorized"}
    assert thief.received == listening.received == []
    kept = retained(here)
    assert MARK not in kept
    assert topics.EPOCH.encode() in kept, "this is where it would be"
    for device in (thief, listening):
        device.close()


def told(device: MqttDevice, places: Sequence[str], payload: bytes) -> list[str]:
    """What the broker answers to a retained message on each of these topics."""
    seen = len(device._answers)
    packets = [device._client.publish(topic, payload, qos=1, retain=True).mid for topic in places]
    device.wait("the broker's answers", lambda: {packet for packet, _ in device._answers[seen:]} >= set(packets))
    return [answer for _, answer in device._answers[seen:]]


TRICKS = ("victim/main/up", "+", "#", "victim/#", "VICTIM", "victim ", "victim\n", "%u", "$SYS")


@pytest.mark.parametrize("name", TRICKS)
def test_a_name_that_no_device_has_opens_nothing_even_in_a_certificate_of_the_fleet(
    here: Fleet, victim: Device, work: Path, name: str
) -> None:
    """The authority signs no such name; this is what stands behind it if it ever did."""
    mistaken = signed_by_the_fleet(here, work / f"trick-{TRICKS.index(name)}", name)
    try:
        thief = connected(here, mistaken)
    except AssertionError:
        return  # it is not even let in
    thief.wait("a subscription", lambda: thief.connections)
    forbidden = ("beamfleet/v1/victim/main/up/state", "beamfleet/v1/victim/main/down/desired", topics.EPOCH)
    assert set(told(thief, forbidden, MARK)) == {"Not authorized"}
    here.cli("device", "show", "victim")
    thief.close()
    assert thief.received == []
    assert MARK not in retained(here)


def signed_by_the_fleet(here: Fleet, folder: Path, name: str) -> Identity:
    """A client certificate of any name, with the fleet's own key."""
    folder.mkdir()
    authority = x509.load_pem_x509_certificate((here.data / "ca/authority.pem").read_bytes())
    signer = load_pem_private_key((here.data / "ca/authority.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder(authority.subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(signer, hashes.SHA256())
    )
    made = Identity("trick", folder / "key.pem", folder / "cert.pem")
    made.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    made.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made


def test_of_what_is_meant_for_others_it_downloads_nothing(here: Fleet, victim: Device, stolen: Identity) -> None:
    start_rollout(here, "victim", "1.0.0")
    for query in ("", "?device=victim", "?app=main&device=victim", "?app=../victim"):
        answer = get(here, stolen, f"/assignment{query}")
        assert answer.status_code in (204, 404, 422), (query, answer.text)
    for path in ("/api/v1/devices", "/assignment/victim", "/../api/v1/server", "/metadata/../../server.json"):
        assert get(here, stolen, path).status_code == 404, path
    operators = here.address("operators")
    pair = (str(stolen.certificate), str(stolen.key))
    answer = requests.get(f"{operators}/api/v1/devices", cert=pair, verify=str(here.data / "ca.pem"), timeout=30)
    assert answer.status_code == 401


def get(here: Fleet, identity: Identity, path: str) -> requests.Response:
    pair = (str(identity.certificate), str(identity.key))
    return requests.get(here.address("devices") + path, cert=pair, verify=str(here.data / "ca.pem"), timeout=30)


def secrets_of(folder: Path) -> dict[str, list[bytes]]:
    """What must not be known to others in the files of a folder: lines of private keys and tokens, by file."""
    found: dict[str, list[bytes]] = {}
    for path in folder.rglob("*"):
        if not path.is_file() or path.suffix in (".db", ".bundle", ".full"):
            continue
        content = path.read_bytes()
        lines = [
            line
            for block in re.findall(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)-----END", content, re.DOTALL)
            for line in block.split()
            if len(line) > 30
        ]
        if "token" in path.name:
            lines.append(content.strip())
        if lines:
            found[str(path)] = lines
    return found


def test_on_its_disk_is_no_secret_but_its_own(here: Fleet, victim: Device) -> None:
    others = secrets_of(here.data) | secrets_of(here.work / "operator")
    for name, device in here.devices.items():
        if name != "victim":
            others |= secrets_of(device.root / "var/lib/beamfleet/identity")
    assert len(others) > 6, "the server's keys, the operator's keys and tokens"
    assert secrets_of(victim.root), "its own key is there, and is found"
    for path in victim.root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            for owner, secrets in others.items():
                assert not [each for each in secrets if each in content or decoded(each) in content], (path, owner)


def decoded(secret: bytes) -> bytes:
    """A line of a PEM file as the bytes that it stands for."""
    try:
        return base64.b64decode(secret, validate=True)
    except ValueError:
        return secret


def test_a_revoked_device_loses_its_session_and_every_door_and_its_release_runs_on(here: Fleet) -> None:
    device = running_device(here, "revoked")
    identity = Identity("revoked", *reversed(identity_of(device)))
    assert get(here, identity, "/assignment").status_code == 200
    state, up = device.boot_state(), len(logged(device, "session up"))
    here.cli("device", "revoke", "revoked", "--yes")
    wait_for("the live session to end", lambda: logged(device, "session down"), deadline_s=30)
    wait_for("it to be shown", lambda: not here.json("device", "show", "revoked")["online"], deadline_s=30)
    assert refused(here, identity, "/assignment")
    assert refused(here, identity, "/metadata/timestamp.json")
    body = pki.encode_body(pki.make_request(pki.create_key(here.work / "attackers/again.key"), "revoked"))
    pair = (str(identity.certificate), str(identity.key))
    url = f"{here.address('enrolment')}/.well-known/est/simplereenroll"
    answer = requests.post(url, body, cert=pair, verify=str(here.data / "ca.pem"), timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (403, "certificate.unknown")
    wait_for("more tries", lambda: len(logged(device, "session down")) >= 4, deadline_s=60)
    assert len(logged(device, "session up")) <= up + 1, "at most once more, before mosquitto had read the list"
    assert device.boot_state() == state
    assert device.http()
    here.wait_online("victim", deadline_s=10)


def refused(here: Fleet, identity: Identity, path: str) -> bool:
    try:
        return get(here, identity, path).status_code == 403
    except requests.exceptions.SSLError:
        return True


@pytest.fixture
def copied(here: Fleet, work: Path) -> Iterator[tuple[Device, Device]]:
    """A device whose disk was copied, and the copy, which another machine runs: its kernel has a boot id of its own."""
    device = running_device(here, "copied")
    copy = Device("copied", work / "copy", device.http_port)
    device.stop()
    shutil.copytree(device.root, copy.root, symlinks=True, ignore=what_is_no_file)
    boot = work / "boot_id"
    boot.write_text("11111111-2222-4333-8444-555555555555\n")
    machine = f"mount --bind {boot} /proc/sys/kernel/random/boot_id && exec {copy.root / 'run'}"
    done = subprocess.run(["unshare", "-m", "true"], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no second machine can be played here: {done.stderr.strip()}")
    (copy.root / "run").rename(copy.root / "run.there")
    (copy.root / "run").write_text(f"#!/bin/sh\nexec unshare -m sh -c '{machine}.there'\n")
    (copy.root / "run").chmod(0o755)
    yield device, copy
    copy.stop()


def what_is_no_file(folder: str, names: list[str]) -> set[str]:
    """Sockets and pipes, which a copy of a disk has no use for."""
    places = {name: Path(folder, name) for name in names}
    return {name for name, place in places.items() if place.is_socket() or place.is_fifo()}


def test_a_copied_device_is_noticed_and_cut_when_both_are_alive(here: Fleet, copied: tuple[Device, Device]) -> None:
    device, copy = copied
    device.start()
    here.wait_online("copied")
    copy.start()
    alarm = wait_for(
        "the alarm",
        lambda: [each for each in here.json("events", "--device", "copied") if each["kind"] == "clone"],
        deadline_s=60, every_s=0.5,
    )  # fmt: skip
    assert alarm
    wait_for(
        "both to be cut off",
        lambda: refused(here, Identity("copied", *reversed(identity_of(device))), "/assignment"),
        deadline_s=90,
        every_s=0.5,
    )
    assert here.json("device", "show", "copied")["clone"]
    copy.stop()
    here.cli("device", "accept-clone", "copied")
    here.wait_online("copied", deadline_s=90)
