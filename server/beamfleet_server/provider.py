"""Owns the talk with an OpenID provider: where its doors are, its keys, and a code for an ID token. HTTPS only.

Authorization code with PKCE (S256), state and nonce. What is under way is kept here, for ten minutes and bounded; a
restart of the server ends it, and one logs in again. Redirects are not followed, answers are bounded.
"""

import base64
import hashlib
import json
import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import requests

from beamfleet_server.api.permissions import ROLES
from beamfleet_server.clock import Clock
from beamfleet_server.errors import ServerError
from beamfleet_server.identity_tokens import UnknownKeyError, refused, verify
from beamfleet_server.store.operators import Operator

TIMEOUT_S = 10
LARGEST = 1 << 20
FRESH_S = 3600
KEYS_AGAIN_S = 60
UNDERWAY_S = 600
MOST_UNDERWAY = 1000
PREFIX = "oidc:"
"""Before the names of those who come from a provider: an operator of this server cannot have one with a colon."""


@dataclass(frozen=True, slots=True)
class Client:
    """What the provider knows us as. `role_claim`: the claim that has the role, a text or a list."""

    issuer: str
    client_id: str
    secret: str
    role_claim: str
    redirect: str
    ca: Path | None


@dataclass(frozen=True, slots=True)
class _Underway:
    nonce: str
    verifier: str
    browser: str
    until: int


class Provider:
    """One provider. Use: `begin` gives the way there, `finish` takes what came back. Both block."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._lock = threading.Lock()
        self._doors: tuple[int, Mapping[str, Any]] = (0, {})
        self._keys: tuple[int, list[dict[str, Any]]] = (0, [])
        self._underway: OrderedDict[str, _Underway] = OrderedDict()

    def begin(self, browser: str) -> str:
        """Where to send a browser that is known by the secret `browser`; error `login.unavailable`."""
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        doors = self._discovered()
        now = self._clock()
        with self._lock:
            self._underway[state] = _Underway(nonce, verifier, browser, now + UNDERWAY_S)
            while len(self._underway) > MOST_UNDERWAY:
                self._underway.popitem(last=False)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code",
            "client_id": self._client.client_id,
            "redirect_uri": self._client.redirect,
            "scope": "openid profile",
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        door = doors["authorization_endpoint"]
        return f"{door}{'&' if urlsplit(door).query else '?'}{urlencode(asked)}"

    def finish(self, browser: str, state: str, code: str) -> Operator:
        """Who came back with this state and code; errors `login.refused`, `login.unavailable`."""
        with self._lock:
            begun = self._underway.pop(state, None)
        now = self._clock()
        if begun is None or begun.until <= now or not secrets.compare_digest(begun.browser, browser):
            raise refused("this log-in was not begun here, or too long ago")
        doors = self._discovered()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._client.redirect,
            "client_id": self._client.client_id,
            "code_verifier": begun.verifier,
        }
        answer = self._ask(
            "POST", doors["token_endpoint"], data=form, auth=(self._client.client_id, self._client.secret)
        )
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise refused("the provider gave no ID token for this code")
        claims = self._verified(token, begun.nonce, now)
        role = self._role(claims.get(self._client.role_claim))
        return Operator(f"{PREFIX}{claims['sub']}"[:80], role, None)

    def _verified(self, token: str, nonce: str, now: int) -> Mapping[str, Any]:
        facts = {"issuer": self._client.issuer, "audience": self._client.client_id}
        for again in (False, True):
            try:
                return verify(token, self._jwks(again=again), **facts, nonce=nonce, now=now)
            except UnknownKeyError:
                continue
        raise refused("the provider's token is signed by a key that the provider does not show")

    def _role(self, claim: object) -> str:
        said = claim if isinstance(claim, list) else [claim]
        roles = [role for role in ROLES if role in said]
        if not roles:
            raise refused(f"the provider gives no role in {self._client.role_claim}: one of {', '.join(ROLES)}")
        return roles[-1]

    def _discovered(self) -> Mapping[str, Any]:
        at, doors = self._doors
        if not doors or self._clock() - at >= FRESH_S:
            doors = self._ask("GET", f"{self._client.issuer.rstrip('/')}/.well-known/openid-configuration")
            if doors.get("issuer") != self._client.issuer:
                raise _unavailable("it says that it is another issuer")
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                if not isinstance(doors.get(name), str) or urlsplit(doors[name]).scheme != "https":
                    raise _unavailable(f"its {name} is no https address")
            self._doors = (self._clock(), doors)
        return doors

    def _jwks(self, *, again: bool) -> list[dict[str, Any]]:
        at, keys = self._keys
        age_s = self._clock() - at
        if not keys or age_s >= FRESH_S or (again and age_s >= KEYS_AGAIN_S):
            found = self._ask("GET", self._discovered()["jwks_uri"]).get("keys")
            keys = [key for key in found if isinstance(key, dict)] if isinstance(found, list) else []
            self._keys = (self._clock(), keys)
        return keys

    def _ask(self, method: str, url: str, **content: Any) -> dict[str, Any]:
        verified = str(self._client.ca) if self._client.ca else True
        try:
            with requests.Session() as session:
                session.trust_env = False  # neither a netrc nor a proxy of whoever started us
                answer = session.request(
                    method, url, timeout=TIMEOUT_S, verify=verified, allow_redirects=False, stream=True, **content
                )
                body = answer.raw.read(LARGEST + 1, decode_content=True)
                answer.close()
        except (OSError, requests.exceptions.RequestException) as error:
            raise _unavailable(type(error).__name__) from error
        if method == "POST" and answer.status_code in (400, 401, 403):
            raise refused("the provider does not take this code")
        try:
            document = json.loads(body) if answer.status_code == 200 and len(body) <= LARGEST else None
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise _unavailable(f"it answers {answer.status_code}")
        return document


def _unavailable(why: str) -> ServerError:
    return ServerError("login.unavailable", f"the identity provider cannot be used: {why}", "log in with a token")
