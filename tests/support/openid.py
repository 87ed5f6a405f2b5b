"""A tiny OpenID provider on loopback: real TLS, real keys, real codes, PKCE checked; and it lies where a test wants."""

import base64
import hashlib
import http.server
import json
import secrets
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

CLIENT, SECRET = "beamfleet", "secret-of-the-client"
Document = dict[str, Any]


def text_of(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int) -> str:
    return text_of(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def public_rsa(key: rsa.RSAPrivateKey, kid: str) -> Document:
    numbers = key.public_key().public_numbers()
    return {"kty": "RSA", "use": "sig", "kid": kid, "n": number(numbers.n), "e": number(numbers.e)}


def public_ec(key: ec.EllipticCurvePrivateKey, kid: str) -> Document:
    numbers = key.public_key().public_numbers()
    x, y = (text_of(each.to_bytes(32, "big")) for each in (numbers.x, numbers.y))
    return {"kty": "EC", "crv": "P-256", "use": "sig", "kid": kid, "x": x, "y": y}


def token(claims: Document, header: Document, sign: Callable[[bytes], bytes]) -> str:
    signed = ".".join(text_of(json.dumps(part).encode()) for part in (header, claims))
    return f"{signed}.{text_of(sign(signed.encode()))}"


def by_rsa(key: rsa.RSAPrivateKey) -> Callable[[bytes], bytes]:
    return lambda data: key.sign(data, padding.PKCS1v15(), hashes.SHA256())


def by_ec(key: ec.EllipticCurvePrivateKey) -> Callable[[bytes], bytes]:
    def sign(data: bytes) -> bytes:
        return b"".join(
            half.to_bytes(32, "big") for half in decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
        )

    return sign


class OpenId:
    """Serves with a certificate in `directory`. `claims` are added to each ID token; `kid` names its key."""

    def __init__(self, key_file: Path, certificate: Path) -> None:
        self.ca = certificate
        self.claims: Document = {"sub": "anna", "beamfleet_role": "operator"}
        self.key = rsa_key()
        self.kid = "key-1"
        self.asked: list[str] = []
        self._codes: dict[str, dict[str, str]] = {}
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key_file)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @property
    def issuer(self) -> str:
        return f"https://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def authorize(self, address: str) -> str:
        """A person says yes at this address; where the browser is sent back to."""
        asked = {name: values[-1] for name, values in parse_qs(urlsplit(address).query).items()}
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(8)
        self._codes[code] = asked
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"

    def _token(self, form: dict[str, str], authorization: str) -> Document | None:
        asked = self._codes.pop(form.get("code", ""), None)
        expected = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        challenge = text_of(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if asked is None or authorization != f"Basic {expected}" or challenge != asked["code_challenge"]:
            return None
        now = int(time.time())
        facts = {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": asked["nonce"]}
        header = {"alg": "RS256", "kid": self.kid}
        return {"id_token": token(facts | self.claims, header, by_rsa(self.key)), "token_type": "Bearer"}

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        provider = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked.append(self.path)
                if self.path == "/.well-known/openid-configuration":
                    doors = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
                    document: Document | None = {name: f"{provider.issuer}/{door}" for name, door in doors.items()}
                    self._answer((document or {}) | {"issuer": provider.issuer})
                elif self.path == "/keys":
                    self._answer({"keys": [public_rsa(provider.key, provider.kid)]})
                else:
                    self._answer(None)

            def do_POST(self) -> None:
                provider.asked.append(self.path)
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = {name: values[-1] for name, values in parse_qs(body).items()}
                self._answer(provider._token(form, self.headers.get("Authorization", "")))

            def _answer(self, document: Document | None) -> None:
                body = json.dumps(document or {"error": "invalid_grant"}).encode()
                self.send_response(200 if document else 400)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        return Handler
