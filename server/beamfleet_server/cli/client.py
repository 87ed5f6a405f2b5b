"""The command line's connection to the operators' API: HTTPS against the pinned fleet CA, with a bearer token.

An answer that is an error becomes a RemoteError with the server's code, message and hint. What is safe to repeat is
tried again, with back-off, for as long as the caller has patience: that is what carries a push or a wait over a restart
of the server. Whatever else changes something is sent once. Redirects are not followed, netrc is not read. This module
never prints.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from beamfleet_server.cli.contexts import Context
from beamfleet_server.cli.errors import CommandError, RemoteError
from beamfleet_server.errors import ServerError

if TYPE_CHECKING:
    import requests

PREFIX = "/api/v1"
DEVELOPMENT = "Beamfleet-Development"
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
UPLOAD_TIMEOUT_S = 900
SILENCE_S = 45
"""How long a stream may say nothing: it has a sign of life each 15 seconds."""
PATIENCE_S = 2.0
REPEAT_S = 30.0
"""How long what changes something and may be repeated is tried again: a server needs seconds to come back."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
PAGE = 1000
_WHICH_ADDRESS = "is this the operators' address? `beamfleet serve` prints it when it starts"
_SILENCE = frozenset({"server.unreachable", "server.timeout"})
_UNAVAILABLE = frozenset({502, 503, 504})

Json = dict[str, Any]


class Client:
    """The API of one context's server.

    `token` is asked for when the first request is made. `pause` sleeps for seconds, `clock` is a monotonic clock in
    seconds. `timeout_s` is how long an answer may take, `patience_s` how long a GET is tried again.
    """

    def __init__(
        self,
        server: str,
        ca: Path,
        token: Callable[[], str],
        *,
        timeout_s: float = READ_TIMEOUT_S,
        patience_s: float = PATIENCE_S,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.server = server
        self._ca = ca
        self._token = token
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._pause = pause
        self._clock = clock
        self._session: requests.Session | None = None
        self.development = False
        """Whether the server said that its keys are for development."""

    @classmethod
    def of(cls, context: Context) -> "Client":
        return cls(context.server, context.ca, context.token)

    def get(
        self,
        path: str,
        query: Mapping[str, object] | None = None,
        *,
        patience_s: float | None = None,
        on_trouble: Callable[[ServerError], None] = lambda _: None,
    ) -> Json:
        """The JSON object at a path under /api/v1.

        A server that does not answer is asked again for `patience_s` seconds; `on_trouble` hears of each failure.
        """
        return self._object(self._get(path, query, patience_s, on_trouble))

    def lines(
        self,
        path: str,
        query: Mapping[str, object],
        *,
        patience_s: float,
        on_trouble: Callable[[ServerError], None] = lambda _: None,
    ) -> Iterator[str]:
        """The lines of an answer that goes on, until it ends or breaks off; it is asked for as in `get`."""
        import requests

        def send() -> "requests.Response":
            return self._send("GET", path, params=_parameters(query), stream=True, timeout_s=SILENCE_S)

        with self._patiently(send, patience_s, on_trouble) as answer:
            try:
                for line in answer.iter_lines(chunk_size=None):
                    yield line.decode("utf-8", "replace")
            except (requests.exceptions.RequestException, OSError):
                return

    def get_bytes(self, path: str) -> bytes | None:
        """The bytes at a path, or None where there are none (404)."""
        try:
            return self._get(path, None, None, lambda _: None).content
        except RemoteError as error:
            if error.status == 404:
                return None
            raise

    def pages(self, path: str, query: Mapping[str, object] | None = None, limit: int = 0) -> Iterator[Json]:
        """Every item of a list, page by page; at most `limit` when that is not 0."""
        for page in self.answers(path, query, limit):
            yield from page["items"]

    def answers(self, path: str, query: Mapping[str, object] | None = None, limit: int = 0) -> Iterator[Json]:
        """The pages of a list as they came, with at most `limit` items together when that is not 0."""
        cursor: object = None
        left = limit
        while True:
            asked = {**(query or {}), "limit": min(left, PAGE) if limit else PAGE, "cursor": cursor}
            page = self.get(path, asked)
            page["items"] = page["items"][:left] if limit else page["items"]
            yield page
            left -= len(page["items"])
            cursor = page.get("next")
            if cursor is None or (limit and left <= 0):
                return

    def post(self, path: str, body: Mapping[str, object]) -> Json:
        return self._object(self._send("POST", path, json=dict(body)))

    def post_again(self, path: str, body: Mapping[str, object]) -> Json:
        """POST what the server takes once however often it comes, until it has answered."""
        return self._object(self._patiently(lambda: self._send("POST", path, json=dict(body)), REPEAT_S))

    def patch(self, path: str, body: Mapping[str, object]) -> Json:
        return self._object(self._send("PATCH", path, json=dict(body)))

    def delete(self, path: str) -> Json:
        return self._object(self._send("DELETE", path))

    def upload(self, path: str, content: IO[bytes]) -> Json:
        """POST a file as it is read; its length is announced, its type is application/octet-stream. Sent again from its
        beginning when the server went away: the same bytes are published once."""
        headers = {"Content-Type": "application/octet-stream"}

        def send() -> "requests.Response":
            content.seek(0)
            return self._send("POST", path, data=content, headers=headers, timeout_s=UPLOAD_TIMEOUT_S)

        return self._object(self._patiently(send, REPEAT_S))

    def close(self) -> None:
        """End the connection; a server that stops would wait for it."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _get(
        self,
        path: str,
        query: Mapping[str, object] | None,
        patience_s: float | None,
        on_trouble: Callable[[ServerError], None],
    ) -> "requests.Response":
        params = _parameters(query or {})
        patience_s = self._patience_s if patience_s is None else patience_s
        return self._patiently(lambda: self._send("GET", path, params=params), patience_s, on_trouble)

    def _patiently(
        self,
        send: "Callable[[], requests.Response]",
        patience_s: float,
        on_trouble: Callable[[ServerError], None] = lambda _: None,
    ) -> "requests.Response":
        end = self._clock() + patience_s
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return send()
            except ServerError as error:
                if not _passing(error) or self._clock() + pause_s > end:
                    raise
                on_trouble(error)
            self._pause(pause_s * random.uniform(0.5, 1.0))  # noqa: S311
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _send(self, method: str, path: str, *, timeout_s: float = 0, **content: Any) -> "requests.Response":
        import requests

        if self._session is None:
            self._session = requests.Session()
            self._session.auth = _bearer(self._token())
        url = f"{self.server}{PREFIX}{path}"
        try:
            response = self._session.request(
                method,
                url,
                timeout=(min(CONNECT_TIMEOUT_S, self._timeout_s), timeout_s or self._timeout_s),
                verify=str(self._ca),
                allow_redirects=False,
                **content,
            )
        except (requests.exceptions.SSLError, OSError) as error:
            raise self._trouble(error) from error
        self.development = response.headers.get(DEVELOPMENT) == "yes"
        if not response.ok or response.is_redirect:
            raise self._refusal(response)
        return response

    def _trouble(self, error: Exception) -> CommandError:
        import requests

        match error:
            case requests.exceptions.SSLError() if "CERTIFICATE_VERIFY_FAILED" not in str(error):
                return CommandError(
                    "server.malformed",
                    f"{self.server} does not speak TLS as a beamfleet server does: {_innermost(error)}",
                    _WHICH_ADDRESS,
                )
            case requests.exceptions.SSLError():
                return CommandError(
                    "server.untrusted",
                    f"the certificate of {self.server} is not from the CA in {self._ca}",
                    "log in again with --ca FILE (the server's ca.pem) and a name that the server has",
                )
            case requests.exceptions.Timeout():
                return CommandError(
                    "server.timeout", f"{self.server} does not answer in time", "try again; is the server busy?"
                )
            case requests.exceptions.RequestException():
                return CommandError(
                    "server.unreachable",
                    f"{self.server} cannot be reached",
                    "is `beamfleet serve` running, and on this port?",
                )
            case _:
                return CommandError(
                    "server.ca_missing", f"the CA file {self._ca} cannot be read", "log in again with --ca FILE"
                )

    def _refusal(self, response: "requests.Response") -> RemoteError:
        try:
            problem = response.json()
            code, message, hint = problem["code"], problem.get("detail") or problem["title"], problem.get("hint", "")
            if not all(isinstance(text, str) for text in (code, message, hint)):
                raise TypeError("a problem's members are strings")
        except (ValueError, TypeError, KeyError):
            code = "server.unavailable" if response.status_code in _UNAVAILABLE else "server.malformed"
            message, hint = f"{self.server} answered {response.status_code} without saying why", _WHICH_ADDRESS
        if code == "request.not_found":
            code, message, hint = "server.malformed", f"{self.server} is not the operators' API", _WHICH_ADDRESS
        return RemoteError(code, message, hint, response.status_code)

    def _object(self, response: "requests.Response") -> Json:
        try:
            document = response.json()
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise CommandError(
                "server.malformed",
                f"{self.server} did not answer with a JSON object",
                _WHICH_ADDRESS,
            )
        return document


def _parameters(query: Mapping[str, object]) -> dict[str, list[str]]:
    """What is not empty; several values of one name are repeated."""
    several = {key: value if isinstance(value, list | tuple) else [value] for key, value in query.items()}
    return {key: [str(each) for each in values if each not in (None, "")] for key, values in several.items()}


def _bearer(token: str) -> "Callable[[requests.PreparedRequest], requests.PreparedRequest]":
    """As an `auth` object, because requests would otherwise take credentials from ~/.netrc in place of the token."""

    def sign(request: "requests.PreparedRequest") -> "requests.PreparedRequest":
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    return sign


def _innermost(error: BaseException) -> str:
    while inner := error.__cause__ or error.__context__:
        error = inner
    return str(error)


def _passing(error: ServerError) -> bool:
    """True for what goes away when a server has started again, or in a moment."""
    return error.code in _SILENCE or (isinstance(error, RemoteError) and error.status in {*_UNAVAILABLE, 429})
