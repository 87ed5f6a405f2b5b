"""Enrolment over EST as a device does it, and as curl and openssl do."""

import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from beamfleet_bundles import pki
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from tests.server.conftest import Centre
from tests.support.server import Identity, eventually

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
