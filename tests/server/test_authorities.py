"""One authority takes over from another while devices stay connected, with the real broker, and through kills."""

import json
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from http.client import HTTPSConnection
from pathlib import Path

import pytest
import requests
from beamfleet_bundles import pki
from beamfleet_server.authorities import Authorities
from beamfleet_server.errors import ServerError
from beamfleet_server.store import Store
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from tests.server.conftest import Centre
from tests.support.mqtt_device import MqttDevice
from tests.support.postgres import Place
from tests.support.refusal import refusal
from tests.support.server import Identity, Server, eventually, running_server, start_server

NOW = 1_800_000_000
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)
"""paho does not close the socket of a handshake that the broker's end breaks off."""


@pytest.fixture
def store(tmp_path: Path, place: Place) -> Iterator[Store]:
    (tmp_path / "ca").mkdir()
    opened = Store(place, lambda _: b"")
    opened.open()
    yield opened
    opened.close()


def authorities_of(store: Store, tmp_path: Path) -> Authorities:
    return Authorities(tmp_path / "ca", store.authorities, lambda: NOW).open()


def states(store: Store) -> dict[str, str]:
    return {each.id: each.state for each in store.authorities.all()}


def device_key() -> ec.EllipticCurvePublicKey:
    return ec.generate_private_key(ec.SECP256R1()).public_key()


def test_the_first_one_signs_and_a_further_one_only_when_it_is_activated(store: Store, tmp_path: Path) -> None:
    authorities = authorities_of(store, tmp_path)
    first = authorities.active.id
    second = authorities.create()
    assert states(store) == {first: "active", second: "trusted"}
    assert authorities.issue_device("gw-1", device_key()).authority == first
    authorities.activate(second)
    assert states(store) == {second: "active", first: "trusted"}
    issued = authorities.issue_device("gw-1", device_key())
    assert issued.authority == second
    x509.load_der_x509_certificate(issued.der).verify_directly_issued_by(authorities.active.certificate)
    assert authorities.pem.count(b"BEGIN") == authorities.revocation_lists({}, NOW).count(b"BEGIN X509 CRL") == 2
    assert [each.id for each in authorities_of(store, tmp_path).trusted] == [second, first], (
        "another start sees the same"
    )


def test_retiring_ends_the_trust_and_removes_the_key_and_nothing_else(store: Store, tmp_path: Path) -> None:
    authorities = authorities_of(store, tmp_path)
    first, second = authorities.active.id, authorities.create()
    assert refusal(authorities.retire, first, force=True) == "authority.active"
    authorities.activate(second)
    assert refusal(authorities.retire, "0" * 12, force=False) == "authority.unknown"
    authorities.retire(first, force=False)
    assert states(store)[first] == "retired"
    assert authorities.pem.count(b"BEGIN") == 1
    assert authorities.renewable_pem.count(b"BEGIN") == 2
    assert not (tmp_path / "ca" / "authority.key").exists()
    assert refusal(authorities.activate, first) == "authority.retired"


def test_the_authority_of_devices_is_not_retired_unless_forced(store: Store, tmp_path: Path) -> None:
    authorities = authorities_of(store, tmp_path)
    first = authorities.active.id
    key = device_key()
    old = store.enrolment.provision(
        "gw-1", lambda name: authorities.issue_device(name, key), NOW, given={}, replace=False
    )
    authorities.activate(authorities.create())
    assert refusal(authorities.retire, first, force=False) == "authority.in_use"
    serial = pki.read_certificate(pki.load_certificate(old)).serial
    held = store.enrolment.holder(serial, old)
    assert held is not None
    store.enrolment.seen(held, NOW)
    new = store.enrolment.renew(serial, old, lambda name: authorities.issue_device(name, device_key()), NOW)
    holder = store.enrolment.holder(pki.read_certificate(pki.load_certificate(new)).serial, new)
    assert holder is not None
    assert store.authorities.devices()[first] == 1, "that it was issued does not say that the device has it"
    store.enrolment.seen(holder, NOW)
    authorities.retire(first, force=False)
    assert store.enrolment.holder(serial, old) is None
    assert store.enrolment.renew(serial, old, lambda name: authorities.issue_device(name, device_key()), NOW)


def test_only_so_many_are_trusted_at_once(store: Store, tmp_path: Path) -> None:
    authorities = authorities_of(store, tmp_path)
    made = [authorities.create() for _ in range(3)]
    files = sorted((tmp_path / "ca").iterdir())
    assert refusal(authorities.create) == "authority.too_many"
    assert sorted((tmp_path / "ca").iterdir()) == files
    authorities.retire(made[0], force=False)
    assert authorities.create()


class PowerCutError(Exception):
    """The power goes here."""


@pytest.mark.parametrize("step", ["create", "activate", "retire"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_in_any_step_leaves_authorities_that_work(
    store: Store, tmp_path: Path, step: str, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    authorities = authorities_of(store, tmp_path)
    first, second = authorities.active.id, authorities.create()
    if step == "retire":
        authorities.activate(second)
    change = {"create": "add", "activate": "activate", "retire": "retire"}[step]
    original = getattr(store.authorities, change)

    def interrupted(*arguments: object, **options: object) -> None:
        if moment == "after":
            original(*arguments, **options)
        raise PowerCutError

    monkeypatch.setattr(store.authorities, change, interrupted)
    acts: dict[str, Callable[[], object]] = {
        "create": authorities.create,
        "activate": lambda: authorities.activate(second),
        "retire": lambda: authorities.retire(first, force=False),
    }
    with pytest.raises(PowerCutError):
        acts[step]()
    monkeypatch.undo()
    again = authorities_of(store, tmp_path)
    expected = {"active": 1, "trusted": {"create": 1, "activate": 1, "retire": 1}[step], "retired": 0}
    if moment == "after" and step == "create":
        expected["trusted"] = 2
    if moment == "after" and step == "retire":
        expected |= {"trusted": 0, "retired": 1}
        assert not (tmp_path / "ca" / "authority.key").exists()
    found = list(states(store).values())
    assert {state: found.count(state) for state in expected} == expected
    issued = again.issue_device("gw-1", device_key())
    x509.load_der_x509_certificate(issued.der).verify_directly_issued_by(again.active.certificate)
    assert again.active.id == (second if (step, moment) == ("activate", "after") or step == "retire" else first)


def test_an_authority_whose_key_is_gone_keeps_the_server_from_starting(store: Store, tmp_path: Path) -> None:
    authorities_of(store, tmp_path)
    (tmp_path / "ca" / "authority.key").unlink()
    with pytest.raises(ServerError, match=r"authority\.key") as error:
        authorities_of(store, tmp_path)
    assert error.value.code == "server.data_unusable"


def broker_takes(server: Server, identity: Identity) -> bool:
    """Whether mosquitto lets a client with this certificate in."""
    context = ssl.create_default_context(cafile=str(server.ca))
    context.load_cert_chain(identity.certificate, identity.key)
    name = identity.device.encode()
    variable = b"\x00\x04MQTT\x04\x02\x00\x3c" + len(name).to_bytes(2, "big") + name
    host, _, port = server.facts["mqtt"].rpartition(":")
    try:
        with (
            socket.create_connection((host, int(port)), 30) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            connection.sendall(b"\x10" + bytes([len(variable)]) + variable)
            return connection.recv(4) == b"\x20\x02\x00\x00"
    except OSError:
        return False


def devices_listener_takes(server: Server, identity: Identity) -> bool:
    try:
        return server.fetch(identity, "/assignment").status_code == 204
    except requests.exceptions.ConnectionError:  # the handshake, or what TLS 1.3 tells of it later
        return False


def renewed(server: Server, identity: Identity, work: Path) -> Identity:
    """What a device gets for the certificate that it has."""
    work.mkdir()
    made = Identity(identity.device, work / "key", work / "pem")
    answer = server.simplereenroll(identity, pki.make_request(pki.create_key(made.key), identity.device))
    assert answer.status_code == 200, answer.text
    (certificate,) = pki.unpack_certificates(pki.decode_body(answer.content, pki.MAX_RESPONSE))
    made.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    return made


def active(server: Server) -> str:
    return next(str(each["id"]) for each in server.get("/authorities")["items"] if each["state"] == "active")


def shows(server: Server, authority: str, listener: str) -> bool:
    """Whether a listener shows a certificate of this authority."""
    pem = next(each["pem"] for each in server.get("/server")["authorities"] if each["id"] == authority)
    host, _, port = server.facts[listener].rpartition("/")[2].rpartition(":")
    context = ssl.create_default_context(cadata=pem)
    try:
        with socket.create_connection((host, int(port)), 30) as plain, context.wrap_socket(plain, server_hostname=host):
            return True
    except ssl.SSLCertVerificationError:
        return False


@pytest.mark.parametrize("restart", [False, True], ids=["running", "killed-after-each-step"])
def test_a_new_authority_takes_over_and_the_old_one_is_refused_but_renews(tmp_path: Path, restart: bool) -> None:
    server = start_server(tmp_path / "server")
    try:
        old, work = active(server), tmp_path / "devices"
        before, quiet = server.enrol("gw-1", work), server.enrol("gw-3", work)

        def settle() -> None:
            if restart:
                server.kill()
                server.start()

        new = str(server.post("/authorities", {})["id"])
        settle()
        eventually("both to be trusted", lambda: server.ca.read_bytes().count(b"BEGIN") == 2)
        broker = server.broker_pid
        device = MqttDevice(quiet, server.facts["mqtt"], server.ca)
        assert devices_listener_takes(server, before)

        server.post(f"/authorities/{new}/activate", {}, 200)
        settle()
        for listener in ("operators", "devices", "enrolment", "mqtt"):
            eventually(f"the new certificate at {listener}", partial(shows, server, new, listener))
        after = server.enrol("gw-2", work)
        assert {each["id"]: each["devices"] for each in server.get("/authorities")["items"]} == {new: 1, old: 2}
        assert restart or server.broker_pid == broker, "to trust one more, the broker is not started again"
        if not restart:
            assert (device.connections, device._client.is_connected()) == (1, True)
        for identity in (before, after):
            assert devices_listener_takes(server, identity), identity.device
            assert broker_takes(server, identity), identity.device
        url = f"{server.facts['enrolment']}/.well-known/est/cacerts"
        answer = requests.get(url, verify=str(server.ca), timeout=30)
        assert len(pki.unpack_certificates(pki.decode_body(answer.content, pki.MAX_RESPONSE))) == 2

        refused = server.api("POST", f"/authorities/{old}/retire", json={})
        assert (refused.status_code, refused.json()["code"]) == (409, "authority.in_use")
        server.post(f"/authorities/{old}/retire", {"force": True}, 200)
        settle()
        eventually("the old one to be refused by the broker", lambda: not broker_takes(server, before))
        eventually("and by the listener of devices", lambda: not devices_listener_takes(server, before))
        eventually("its session to end", lambda: not device._client.is_connected())
        eventually("the broker", lambda: broker_takes(server, after))
        assert devices_listener_takes(server, after)
        assert not device._client.is_connected()
        now = renewed(server, before, tmp_path / "renewed")
        assert devices_listener_takes(server, now)
        assert broker_takes(server, now)
        assert {each["id"]: each["state"] for each in server.get("/authorities")["items"]} == {
            new: "active",
            old: "retired",
        }
        device.close()
    finally:
        server.end()


def test_a_kept_connection_with_a_certificate_of_a_retired_authority_is_refused(tmp_path: Path) -> None:
    with running_server(tmp_path / "server") as server:
        identity, old = server.enrol("gw-1", tmp_path / "devices"), active(server)
        context = ssl.create_default_context(cafile=str(server.ca))
        context.load_cert_chain(identity.certificate, identity.key)
        host, _, port = server.facts["devices"].rpartition("/")[2].rpartition(":")
        with closing(HTTPSConnection(host, int(port), context=context, timeout=30)) as connection:

            def ask() -> tuple[int, bytes]:
                connection.request("GET", "/assignment")
                answer = connection.getresponse()
                return answer.status, answer.read()

            assert ask() == (204, b"")
            open_socket = connection.sock
            server.post(f"/authorities/{server.post('/authorities', {})['id']}/activate", {}, 200)
            server.post(f"/authorities/{old}/retire", {"force": True}, 200)
            status, body = ask()
            assert (status, json.loads(body)["code"]) == (403, "certificate.unknown")
            assert connection.sock is open_socket


def test_the_servers_certificate_renews_itself_while_it_runs(tmp_path: Path) -> None:
    with running_server(tmp_path / "server", server_certificate_s=20) as server:
        identity = server.enrol("gw-1", tmp_path / "devices")
        device = MqttDevice(identity, server.facts["mqtt"], server.ca)
        first, broker = {name: shown(server, name) for name in ("operators", "devices", "mqtt")}, server.broker_pid
        for name, serial in first.items():
            eventually(f"another certificate at {name}", partial(shows_another, server, name, serial), 120)
        assert server.broker_pid == broker, "for its own certificate the broker is not started again"
        assert device._client.is_connected()
        assert devices_listener_takes(server, identity)
        assert server.get("/health")["broker"] == "up"
        device.close()


def shows_another(server: Server, listener: str, serial: int) -> bool:
    return shown(server, listener) != serial


def shown(server: Server, listener: str) -> int:
    """The serial of the certificate that a listener shows."""
    host, _, port = server.facts[listener].rpartition("/")[2].rpartition(":")
    pem = ssl.get_server_certificate((host, int(port)), timeout=30)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def test_requests_go_on_while_certificates_change(own_centre: Centre) -> None:
    server = own_centre.server
    identity = server.enrol("busy-1", own_centre.work)
    new = server.post("/authorities", {})["id"]
    eventually("both to be trusted", lambda: server.ca.read_bytes().count(b"BEGIN") == 2)
    server.post(f"/authorities/{new}/activate", {}, 200)
    seen = [(server.fetch(identity, "/assignment").status_code, shows(server, new, "devices")) for _ in range(60)]
    assert {status for status, _ in seen} == {204}
    assert seen[-1][1], "the change has happened meanwhile"
