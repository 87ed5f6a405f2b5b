"""Enrolment over EST as a device does it, and as curl and openssl do."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from beamfleet_bundles import pki
from beamfleet_server.ca import key_fingerprint
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.server.conftest import PRODUCT, Centre
from tests.support.server import Identity, Server, eventually, running_server

CLIENT = r"""
set -e
curl -sf --cacert "$CA" "$EST/cacerts" | openssl base64 -d | openssl pkcs7 -inform DER -print_certs -out fleet.pem
openssl ecparam -name prime256v1 -genkey -noout -out key.pem
openssl req -new -key key.pem -subj /CN=curl-1 -outform DER | openssl base64 > request
curl -sf --cacert fleet.pem -u "curl-1:$TOKEN" --data-binary @request "$EST/simpleenroll" > answer
openssl base64 -d -in answer | openssl pkcs7 -inform DER -print_certs -out cert.pem
openssl verify -CAfile fleet.pem cert.pem
curl -sf --cacert fleet.pem --cert cert.pem --key key.pem -o assignment -w "%{http_code}" "$DEVICES/assignment"
"""


def request_for(device: str) -> bytes:
    return pki.make_request(ec.generate_private_key(ec.SECP256R1()), device)


def code(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_the_name_comes_from_the_token_and_not_from_the_request(centre: Centre) -> None:
    answer = centre.server.simpleenroll("est-1", centre.server.new_token("est-1"), request_for("somebody-else"))
    assert answer.headers["content-type"].startswith("application/pkcs7-mime")
    assert answer.headers["content-transfer-encoding"] == "base64"
    (certificate,) = pki.unpack_certificates(pki.decode_body(answer.content, pki.MAX_RESPONSE))
    assert pki.read_certificate(certificate).name == "est-1"


def test_fifty_parallel_uses_of_a_token_give_one_certificate(centre: Centre) -> None:
    token = centre.server.new_token("parallel-1")
    requests_ = [request_for("parallel-1") for _ in range(50)]
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda body: centre.server.simpleenroll("parallel-1", token, body), requests_))
    granted = [answer for answer in answers if answer.status_code == 200]
    assert len(granted) == 1
    assert {code(answer) for answer in answers if answer not in granted} == {(403, "token.used")}


def test_a_lost_answer_costs_nothing(centre: Centre) -> None:
    token, request = centre.server.new_token("lost-1"), request_for("lost-1")
    first = centre.server.simpleenroll("lost-1", token, request)
    assert centre.server.simpleenroll("lost-1", token, request).content == first.content
    assert code(centre.server.simpleenroll("lost-1", token, request_for("lost-1"))) == (403, "token.used")


def test_a_wrong_token_and_a_right_one_for_another_device_are_refused(centre: Centre) -> None:
    token = centre.server.new_token("wrong-1")
    refused = centre.server.simpleenroll("wrong-1", "x" * 43, request_for("wrong-1"))
    assert code(refused) == (401, "token.wrong")
    assert refused.headers["www-authenticate"].startswith("Basic")
    assert code(centre.server.simpleenroll("wrong-2", token, request_for("wrong-2"))) == (401, "token.wrong")
    assert centre.server.simpleenroll("wrong-1", token, request_for("wrong-1")).status_code == 200


def test_an_expired_token_is_refused(centre: Centre) -> None:
    token = centre.server.new_token("late-1", expires_in_s=1)
    end = time.time() + 1
    eventually("the token to expire", lambda: time.time() > end)
    assert code(centre.server.simpleenroll("late-1", token, request_for("late-1"))) == (403, "token.expired")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (400, "pki.encoding")),
        (b"%%%", (400, "pki.encoding")),
        (b"AAAA", (400, "pki.request")),
        (b"A" * 9000, (413, "request.too_large")),
    ],
)
def test_what_is_no_request_is_refused_and_spends_nothing(
    centre: Centre, body: bytes, expected: tuple[int, str]
) -> None:
    device = f"noise-{len(body)}"
    token = centre.server.new_token(device)
    url = f"{centre.server.facts['enrolment']}/.well-known/est/simpleenroll"
    answer = requests.post(url, body, auth=(device, token), verify=str(centre.server.ca), timeout=30)
    assert code(answer) == expected
    assert centre.server.simpleenroll(device, token, request_for(device)).status_code == 200


def test_a_key_that_is_not_p_256_is_refused(centre: Centre) -> None:
    request = pki.make_request(ec.generate_private_key(ec.SECP384R1()), "curve-1")
    answer = centre.server.simpleenroll("curve-1", centre.server.new_token("curve-1"), request)
    assert code(answer) == (400, "pki.key_type")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_and_openssl_are_a_complete_client(centre: Centre, tmp_path: Path) -> None:
    token, est = centre.server.new_token("curl-1"), f"{centre.server.facts['enrolment']}/.well-known/est"
    environment = {"CA": str(centre.server.ca), "EST": est, "TOKEN": token, "DEVICES": centre.server.facts["devices"]}
    done = subprocess.run(
        ["sh", "-c", CLIENT], cwd=tmp_path, env=environment | {"PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("204")


def test_a_device_renews_with_a_new_key(centre: Centre, tmp_path: Path) -> None:
    identity = centre.server.enrol("renew-1", tmp_path)
    url = f"{centre.server.facts['enrolment']}/.well-known/est/simplereenroll"
    key = pki.create_key(tmp_path / "new.key")
    body = pki.encode_body(pki.make_request(key, "renew-1"))
    pair = (str(identity.certificate), str(identity.key))
    answer = requests.post(url, body, cert=pair, verify=str(centre.server.ca), timeout=30)
    (certificate,) = pki.unpack_certificates(pki.decode_body(answer.content, pki.MAX_RESPONSE))
    renewed = Identity("renew-1", tmp_path / "new.key", tmp_path / "new.pem")
    renewed.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    assert centre.server.fetch(renewed, "/assignment").status_code == 204
    assert centre.server.fetch(identity, "/assignment").status_code == 204, "the old one stays good"
    bare = requests.post(url, body, verify=str(centre.server.ca), timeout=30)
    assert code(bare) == (403, "certificate.unknown")


RENEWAL = r"""
set -e
curl -sf --cacert "$CA" "$EST/cacerts" | openssl base64 -d | openssl pkcs7 -inform DER -print_certs -out fleet.pem
openssl ecparam -name prime256v1 -genkey -noout -out new.pem
openssl req -new -key new.pem -subj /CN=ignored -outform DER | openssl base64 > request
curl -sf --cacert fleet.pem --cert "$CERT" --key "$KEY" --data-binary @request "$EST/simplereenroll" > answer
openssl base64 -d -in answer | openssl pkcs7 -inform DER -print_certs -out cert.pem
openssl verify -CAfile fleet.pem cert.pem
openssl x509 -in cert.pem -noout -subject
curl -sf --cacert fleet.pem --cert cert.pem --key new.pem -o assignment -w "%{http_code}" "$DEVICES/assignment"
"""


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_and_openssl_renew_as_well(centre: Centre, tmp_path: Path) -> None:
    identity = centre.server.enrol("curl-2", tmp_path)
    environment = {
        "CA": str(centre.server.ca),
        "EST": f"{centre.server.facts['enrolment']}/.well-known/est",
        "DEVICES": centre.server.facts["devices"],
        "CERT": str(identity.certificate),
        "KEY": str(identity.key),
        "PATH": "/usr/bin:/bin",
    }
    done = subprocess.run(["sh", "-c", RENEWAL], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "CN = curl-2" in done.stdout
    assert done.stdout.endswith("204")


def named_request(*names: str) -> bytes:
    """A request that calls itself by these common names, whatever they are."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name, _validate=False) for name in names])
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


TRICKS = [
    "a/b",
    "a+b",
    "+",
    "#",
    "a/#",
    "Upper",
    "x" * 64,
    "_server",
    "_gate",
    "über",
    "a b",
    "a\x00b",
    "-a",
    "",
    "$SYS",
]


@pytest.mark.parametrize("name", TRICKS)
def test_a_token_for_any_id_gives_no_certificate_for_a_name_that_is_a_trick(centre: Centre, name: str) -> None:
    token = str(centre.server.post("/tokens", {"count": 3})["token"])
    request = request_for("innocent")
    answer = centre.server.simpleenroll(name.encode().decode("latin-1"), token, request)
    assert code(answer) == ((422, "name.device") if name.isascii() else (401, "token.wrong"))
    (listed,) = [each for each in centre.server.get("/tokens")["items"] if each["id"] == newest_token(centre)]
    assert listed["left"] == 3


def newest_token(centre: Centre) -> int:
    return int(centre.server.get("/tokens?limit=1")["items"][0]["id"])


def test_what_a_request_calls_itself_is_ignored_with_a_token(centre: Centre) -> None:
    for number, names in enumerate((["a/b"], ["one", "two"], ["_server"], [])):
        device = f"ignored-{number}"
        answer = centre.server.simpleenroll(device, centre.server.new_token(device), named_request(*names))
        (certificate,) = pki.unpack_certificates(pki.decode_body(answer.content, pki.MAX_RESPONSE))
        assert pki.read_certificate(certificate).name == device


def without_token(server: Server, request: bytes) -> requests.Response:
    url = f"{server.facts['enrolment']}/.well-known/est/simpleenroll"
    return requests.post(url, pki.encode_body(request), verify=str(server.ca), timeout=30)


def test_without_a_token_nobody_waits_unless_the_server_says_so(centre: Centre) -> None:
    assert code(without_token(centre.server, request_for("no-token"))) == (401, "token.wrong")
    assert centre.server.get("/enrolments")["items"] == []


@pytest.fixture(scope="module")
def approving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("approving") / "server", enrolment_approval="true") as server:
        yield server


def test_a_device_without_a_token_waits_for_a_person(approving: Server, tmp_path: Path) -> None:
    key = pki.create_key(tmp_path / "key")
    request = pki.make_request(key, "wait-1")
    waiting = without_token(approving, request)
    assert waiting.status_code == 202
    assert 1 <= int(waiting.headers["retry-after"]) <= 900
    assert key_fingerprint(key.public_key()) in waiting.text
    (pending,) = approving.get("/enrolments?state=pending")["items"]
    assert (pending["device"], pending["fingerprint"]) == ("wait-1", key_fingerprint(key.public_key()))
    assert without_token(approving, request).status_code == 202
    approving.post("/enrolments/wait-1/accept", {"fingerprint": pending["fingerprint"]}, 200)
    given = without_token(approving, request)
    assert given.status_code == 200
    (certificate,) = pki.unpack_certificates(pki.decode_body(given.content, pki.MAX_RESPONSE))
    identity = Identity("wait-1", tmp_path / "key", tmp_path / "pem")
    identity.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    assert approving.fetch(identity, "/assignment").status_code == 204
    acts = [each for each in approving.get("/audit?limit=1000")["items"] if each["target"] == "wait-1"]
    enrolments = [each["action"] for each in acts if each["action"].startswith("enrolment")]
    assert enrolments == ["enrolment.simpleenroll", "enrolments.accept", "enrolment.simpleenroll"], "waiting is no act"


def test_a_rejected_device_is_told(approving: Server) -> None:
    request = request_for("reject-1")
    assert without_token(approving, request).status_code == 202
    approving.post("/enrolments/reject-1/reject", {}, 200)
    assert code(without_token(approving, request)) == (403, "enrolment.rejected")
    token = approving.new_token("reject-1")
    assert approving.simpleenroll("reject-1", token, request).status_code == 200, "a token needs nobody's word"


@pytest.mark.filterwarnings("ignore:Attribute's length")
@pytest.mark.parametrize("names", [[trick] for trick in TRICKS] + [["one", "two"], []], ids=repr)
def test_nobody_waits_under_a_name_that_is_a_trick(approving: Server, names: list[str]) -> None:
    before = approving.get("/enrolments")["items"]
    assert code(without_token(approving, named_request(*names))) == (422, "name.device")
    assert approving.get("/enrolments")["items"] == before


def test_a_revoked_device_is_cut_off_everywhere_and_comes_back_with_a_new_token_only(centre: Centre) -> None:
    server = centre.server
    device = centre.device("revoked-1")
    identity = Identity("revoked-1", centre.work / "revoked-1.key", centre.work / "revoked-1.pem")
    (serial,) = server.post("/devices/revoked-1/revoke", {}, 200)["serials"]
    eventually("the end of its session", lambda: not device._client.is_connected())
    assert code(server.fetch(identity, "/assignment")) == (403, "certificate.unknown")
    assert code(server.simplereenroll(identity)) == (403, "certificate.unknown")
    shown = server.get("/devices/revoked-1")["certificate"]
    assert shown["serial"] == serial
    assert shown["revoked"]
    many = str(server.post("/tokens", {"count": 1})["token"])
    assert code(server.simpleenroll("revoked-1", many, request_for("revoked-1"))) == (409, "device.exists")
    taken = device.connections
    back = server.enrol("revoked-1", centre.work / "again", replace=True)
    assert server.fetch(back, "/assignment").status_code == 204
    assert device.connections == taken
    device.close()


def test_a_deleted_device_does_not_renew(centre: Centre, tmp_path: Path) -> None:
    identity = centre.server.enrol("deleted-1", tmp_path)
    assert centre.server.api("DELETE", "/devices/deleted-1").status_code == 200
    assert code(centre.server.simplereenroll(identity)) == (403, "certificate.unknown")


def test_who_renews_all_the_time_is_slowed_down(centre: Centre, tmp_path: Path) -> None:
    identity = centre.server.enrol("eager-1", tmp_path)
    answers = [centre.server.simplereenroll(identity) for _ in range(31)]
    assert [answer.status_code for answer in answers] == [200] * 30 + [429]
    assert int(answers[-1].headers["retry-after"]) > 0


def test_the_devices_listener_renews_as_well_for_whom_it_knows_and_by_the_same_rate(
    centre: Centre, tmp_path: Path
) -> None:
    server = centre.server
    identity = server.enrol("one-port-1", tmp_path)
    url = f"{server.facts['devices']}/.well-known/est/simplereenroll"
    pair = (str(identity.certificate), str(identity.key))

    def renew() -> requests.Response:
        body = pki.encode_body(pki.make_request(ec.generate_private_key(ec.SECP256R1()), identity.device))
        return requests.post(url, body, cert=pair, verify=str(server.ca), timeout=60)

    answer = renew()
    assert answer.status_code == 200
    (made,) = pki.unpack_certificates(pki.decode_body(answer.content, pki.MAX_RESPONSE))
    assert pki.read_certificate(made).name == identity.device
    assert server.simplereenroll(identity).status_code == 200
    assert [renew().status_code for _ in range(29)][-2:] == [200, 429]
    assert server.api("POST", "/devices/one-port-1/revoke", json={}).status_code == 200
    assert code(renew()) == (403, "certificate.unknown")


def test_an_expired_certificate_renews_and_does_nothing_else(tmp_path: Path) -> None:
    with running_server(tmp_path / "server", device_certificate_s=1) as server:
        identity = server.enrol("season-1", tmp_path / "devices")
        end = time.time() + 2
        eventually("the certificate to expire", lambda: time.time() > end)
        with pytest.raises(requests.exceptions.ConnectionError):
            server.fetch(identity, "/assignment")
        assert server.simplereenroll(identity).status_code == 200


def test_a_provisioned_device_is_one_like_any_other(centre: Centre, tmp_path: Path) -> None:
    key = pki.create_key(tmp_path / "key")
    body = {"request": pki.encode_body(pki.make_request(key, "other")).decode(), "labels": {"site": "x"}}
    made = centre.server.post("/devices/made-1/certificate", body)
    identity = Identity("made-1", tmp_path / "key", tmp_path / "pem")
    identity.certificate.write_text(made["certificate"])
    assert pki.read_certificate(pki.load_certificate(made["certificate"].encode())).name == "made-1"
    assert centre.server.fetch(identity, "/assignment").status_code == 204
    assert made["authorities"].encode() == centre.server.ca.read_bytes()
    again = centre.server.api("POST", "/devices/made-1/certificate", json=body)
    assert code(again) == (409, "device.exists")
    for name, wrong, expected in [
        ("a%2Fb", body, 404),
        ("Made", body, 422),
        ("made-2", body | {"request": "AAAA"}, 400),
        ("made-2", body | {"request": "%%"}, 400),
    ]:
        assert centre.server.api("POST", f"/devices/{name}/certificate", json=wrong).status_code == expected, name
    assert centre.server.api("GET", "/devices/made-2").status_code == 404


@pytest.mark.parametrize("name", ["1.root.json", "timestamp.json", "1.targets.json", "SNAPSHOT"])
def test_metadata_of_the_top_level_roles_is_for_everybody(centre: Centre, name: str) -> None:
    url = f"{centre.server.facts['enrolment']}/metadata"
    if name == "SNAPSHOT":
        timestamp = requests.get(f"{url}/timestamp.json", verify=str(centre.server.ca), timeout=30).json()
        name = f"{timestamp['signed']['meta']['snapshot.json']['version']}.snapshot.json"
    answer = requests.get(f"{url}/{name}", verify=str(centre.server.ca), timeout=30)
    assert answer.status_code == 200
    assert answer.json()["signatures"]


@pytest.mark.parametrize("name", [f"1.{PRODUCT}.json", "1.director.json", "root.json", "x.root.json", "99.root.json"])
def test_no_other_metadata_is(centre: Centre, name: str) -> None:
    url = f"{centre.server.facts['enrolment']}/metadata/{name}"
    assert code(requests.get(url, verify=str(centre.server.ca), timeout=30)) == (404, "metadata.none")
