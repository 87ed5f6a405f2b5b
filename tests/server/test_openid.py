"""Log-ins by an OpenID provider: a real one on loopback, a browser by hand, and ID tokens that must not be believed."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from beamfleet_server.errors import ServerError
from beamfleet_server.identity_tokens import UnknownKeyError, verify
from cryptography.hazmat.primitives.asymmetric import ec

from tests.server.cli.api_script import make_certificate
from tests.support import openid
from tests.support.openid import CLIENT, SECRET, OpenId, by_ec, by_rsa, public_ec, public_rsa, token
from tests.support.server import Server, running_server

NOW = 1_800_000_000
KEY = openid.rsa_key()
GOOD = {"iss": "https://id", "aud": CLIENT, "iat": NOW - 5, "exp": NOW + 300, "nonce": "n", "sub": "anna"}
HEADER = {"alg": "RS256", "kid": "k"}


def read(text: str, *keys: dict[str, Any]) -> Any:
    return verify(text, keys or [public_rsa(KEY, "k")], issuer="https://id", audience=CLIENT, nonce="n", now=NOW)


def test_a_good_token_of_either_algorithm_is_believed() -> None:
    assert read(token(GOOD, HEADER, by_rsa(KEY)))["sub"] == "anna"
    key = ec.generate_private_key(ec.SECP256R1())
    assert read(token(GOOD, {"alg": "ES256", "kid": "e"}, by_ec(key)), public_ec(key, "e"))["sub"] == "anna"
    assert read(token(GOOD | {"aud": [CLIENT, "x"], "azp": CLIENT}, HEADER, by_rsa(KEY)))


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://other"},
        {"aud": "somebody"},
        {"aud": [CLIENT, "somebody"]},
        {"aud": None},
        {"nonce": "other"},
        {"nonce": None},
        {"exp": NOW - 200},
        {"exp": "later"},
        {"exp": None},
        {"iat": NOW + 500},
        {"iat": True},
        {"sub": ""},
        {"sub": 7},
    ],
    ids=str,
)
def test_a_token_for_somebody_else_or_another_time_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ServerError) as caught:
        read(token(GOOD | changes, HEADER, by_rsa(KEY)))
    assert caught.value.code == "login.refused"


def forged() -> Iterator[tuple[str, str]]:
    good = token(GOOD, HEADER, by_rsa(KEY))
    other = openid.rsa_key()
    yield "another key", token(GOOD, HEADER, by_rsa(other))
    yield "a key of its own", token(GOOD, HEADER | {"jwk": public_rsa(other, "k")}, by_rsa(other))
    yield "no algorithm", token(GOOD, {"alg": "none", "kid": "k"}, lambda _: b"")
    yield "a shared secret", token(GOOD, {"alg": "HS256", "kid": "k"}, lambda _: b"x" * 32)
    yield "the other algorithm", token(GOOD, {"alg": "ES256", "kid": "k"}, by_rsa(KEY))
    yield "altered", ".".join([good.split(".")[0], openid.text_of(b'{"sub": "root"}'), good.split(".")[2]])
    yield "no signature", good.rpartition(".")[0] + "."
    yield "two parts", good.rpartition(".")[0]
    yield "nothing", ""
    yield "not base64", "ü.ü.ü"
    yield "not an object", token(GOOD, HEADER, by_rsa(KEY)).replace(good.split(".")[0], openid.text_of(b"[]"), 1)
    yield "too large", token(GOOD | {"x": "y" * 20_000}, HEADER, by_rsa(KEY))


@pytest.mark.parametrize(("what", "text"), list(forged()), ids=[what for what, _ in forged()])
def test_a_forged_token_is_refused(what: str, text: str) -> None:
    with pytest.raises(ServerError) as caught:
        read(text)
    assert caught.value.code == "login.refused", what


def test_a_small_key_and_a_key_for_encryption_are_none() -> None:
    small = openid.rsa_key(1024)
    with pytest.raises(ServerError):
        read(token(GOOD, HEADER, by_rsa(small)), public_rsa(small, "k"))
    for keys in ({"use": "enc"}, {"kid": "other"}):
        with pytest.raises(UnknownKeyError):
            read(token(GOOD, HEADER, by_rsa(KEY)), public_rsa(KEY, "k") | keys)


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenId]:
    work = tmp_path_factory.mktemp("provider")
    make_certificate(work / "key.pem", work / "ca.pem")
    opened = OpenId(work / "key.pem", work / "ca.pem")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def server(provider: OpenId, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    work = tmp_path_factory.mktemp("oidc")
    (work / "secret").write_text(SECRET)
    settings = {"oidc_issuer": provider.issuer, "oidc_client_id": CLIENT, "oidc_client_secret_file": work / "secret"}
    with running_server(work / "server", **settings, oidc_ca_file=provider.ca) as running:
        yield running


Ask = Callable[..., requests.Response]


@pytest.fixture
def ask(server: Server) -> Ask:
    def browse(address: str, **cookies: str) -> requests.Response:
        url = address if address.startswith("https:") else server.facts["operators"] + address
        headers = {"Cookie": "; ".join(f"__Host-{name}={value}" for name, value in cookies.items())}
        return requests.get(url, headers=headers, verify=str(server.ca), timeout=60, allow_redirects=False)

    return browse


def begin(ask: Ask) -> tuple[str, str]:
    """The address at the provider, and the browser's cookie."""
    sent = ask("/login/oidc")
    assert sent.status_code == 303, sent.text
    return sent.headers["location"], re.findall("__Host-beamfleet-login=([^;]+)", sent.headers["set-cookie"])[0]


def test_somebody_with_a_role_gets_a_session_with_it(server: Server, provider: OpenId, ask: Ask) -> None:
    assert "/login/oidc" in ask("/login").text
    provider.claims = {"sub": "anna", "beamfleet_role": ["staff", "viewer", "operator"]}
    address, login = begin(ask)
    back = ask(provider.authorize(address), **{"beamfleet-login": login})
    assert back.status_code == 200, back.text
    (secret,) = re.findall("__Host-beamfleet=([^;]+)", back.headers["set-cookie"])
    who = ask("/api/v1/whoami", beamfleet=secret).json()
    assert (who["name"], who["role"]) == ("oidc:anna", "operator")
    assert ask("/api/v1/operators", beamfleet=secret).status_code == 403
    kept = [each for each in server.get("/audit?newest=true")["items"] if each["action"] == "pages.from_provider"]
    assert (kept[-1]["actor"], kept[-1]["outcome"]) == ("oidc:anna", "ok")


@pytest.mark.parametrize("role", [None, "root", [], {"admin": True}, ["Admin"]], ids=str)
def test_somebody_without_a_role_gets_in_nowhere(provider: OpenId, ask: Ask, role: object) -> None:
    provider.claims = {"sub": "bert", "beamfleet_role": role}
    address, login = begin(ask)
    back = ask(provider.authorize(address), **{"beamfleet-login": login})
    assert (back.status_code, back.json()["code"]) == (403, "login.refused")
    assert "set-cookie" not in back.headers


def test_a_log_in_belongs_to_the_browser_that_began_it_and_happens_once(provider: OpenId, ask: Ask) -> None:
    provider.claims = {"sub": "anna", "beamfleet_role": "viewer"}
    address, login = begin(ask)
    for cookies in ({}, {"beamfleet-login": "another-browser"}):
        stolen = provider.authorize(begin(ask)[0])
        assert ask(stolen, **cookies).json()["code"] == "login.refused"
    there = provider.authorize(address)
    assert ask(there, **{"beamfleet-login": login}).status_code == 200
    assert ask(there, **{"beamfleet-login": login}).json()["code"] == "login.refused"
    assert ask("/login/oidc/callback", **{"beamfleet-login": login}).json()["code"] == "login.refused"


def test_a_code_of_another_log_in_is_refused_by_its_nonce_or_its_challenge(provider: OpenId, ask: Ask) -> None:
    (first, login), (second, _) = begin(ask), begin(ask)
    ours, theirs = provider.authorize(first), provider.authorize(second)
    state = re.findall("state=([^&]+)", ours)[0]
    mixed = re.sub("state=[^&]+", f"state={state}", theirs)
    assert ask(mixed, **{"beamfleet-login": login}).json()["code"] == "login.refused"


def test_a_provider_that_has_changed_its_key_is_asked_for_it(server: Server, provider: OpenId, ask: Ask) -> None:
    provider.claims = {"sub": "anna", "beamfleet_role": "viewer"}
    provider.key, provider.kid = openid.rsa_key(), "key-2"
    server.restart()
    address, login = begin(ask)
    assert ask(provider.authorize(address), **{"beamfleet-login": login}).status_code == 200


def test_half_a_provider_keeps_the_server_from_starting(tmp_path: Path) -> None:
    done = Server(tmp_path / "server", oidc_issuer="https://127.0.0.1:1").attempt()
    assert (done.returncode, "server.settings" in done.stderr) == (1, True)
    done = Server(tmp_path / "server", oidc_issuer="http://127.0.0.1:1").attempt()
    assert "oidc_issuer" in done.stderr


def test_a_provider_that_is_away_is_told_so_and_tokens_still_work(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    settings = {"oidc_client_id": CLIENT, "oidc_client_secret_file": tmp_path / "secret"}
    with running_server(tmp_path / "server", oidc_issuer="https://127.0.0.1:1", **settings) as server:
        url = f"{server.facts['operators']}/login/oidc"
        answer = requests.get(url, verify=str(server.ca), timeout=60, allow_redirects=False)
        assert (answer.status_code, answer.json()["code"]) == (503, "login.unavailable")
        assert server.get("/whoami")["name"] == "admin"
