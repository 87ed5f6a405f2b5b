"""Owns one HTTP request of a webhook: to an address that was looked at, over verified TLS, bounded in time and bytes.

The status is the answer; what stands in it is read a little, so that the receiver can finish, and thrown away.
Redirects are answers like others: nobody is sent elsewhere."""

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httptools

from beamfleet_server import __version__
from beamfleet_server.errors import ServerError
from beamfleet_server.webhooks.addresses import Addresses, NoAddressError, Target

LARGEST_ANSWER = 64 << 10
"""Bytes of an answer that are read, headers and all."""
PIECE = 8192
REST_S = 2.0
"""How long the rest of an answer is listened to after its headers."""
TRIED = 3
"""Addresses of one name that are tried."""
CONNECTED_S = 5.0
"""How long one of several addresses may take until the next one is tried."""
LONGEST_WAIT_S = 3600
"""Of a Retry-After that is believed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """HTTP's `status`, 0 if there was none, and then `error` says why; how long the receiver wants to be left alone
    (seconds)."""

    status: int
    error: str = ""
    retry_after_s: int = 0

    @property
    def taken(self) -> bool:
        """True if the receiver has it."""
        return 200 <= self.status < 300


def client_context(ca: Path | None) -> ssl.SSLContext:
    """TLS as a client: the system's authorities, and those of `ca` besides. Error `server.settings`."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is not None:
        try:
            context.load_verify_locations(cafile=str(ca))
        except (OSError, ssl.SSLError) as error:
            what = f"webhook_ca_file {ca} cannot be read: {error}"
            raise ServerError("server.settings", what, "name a file with certificates in PEM") from None
    return context


class Sender:
    """Sends. `timeout_s`: for all of a request, from the name to the status."""

    def __init__(self, addresses: Addresses, context: ssl.SSLContext, timeout_s: float) -> None:
        self._addresses = addresses
        self._context = context
        self._timeout_s = timeout_s

    async def post(self, target: Target, headers: Mapping[str, str], body: bytes) -> Answer:
        """What came of it; never raises for what a receiver or a network does."""
        try:
            async with asyncio.timeout(self._timeout_s):
                reader, writer = await self._connect(target)
                try:
                    writer.write(_request(target, headers, body))
                    await writer.drain()
                    return await _answer(reader)
                finally:
                    writer.transport.abort()
        except TimeoutError:
            return Answer(0, f"no answer within {self._timeout_s:.0f} s")
        except NoAddressError as error:
            return Answer(0, str(error))
        except ssl.SSLCertVerificationError as error:
            return Answer(0, f"its certificate is not good: {error.verify_message}"[:200])
        except ssl.SSLError as error:
            return Answer(0, f"TLS failed: {error.reason or 'no reason given'}"[:200])
        except OSError as error:
            return Answer(0, f"no connection: {error.strerror or 'the receiver closed it'}"[:200])
        except httptools.HttpParserError:
            return Answer(0, "the answer is no HTTP")

    async def _connect(self, target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        tls: dict[str, Any] = {"ssl": self._context, "server_hostname": target.host} if target.secure else {}
        addresses = (await self._addresses.resolve(target))[:TRIED]
        for address in addresses[:-1]:
            with contextlib.suppress(OSError, TimeoutError):  # TimeoutError is an OSError; both are named for readers
                async with asyncio.timeout(CONNECTED_S):
                    return await asyncio.open_connection(address, target.port, limit=PIECE, **tls)
        return await asyncio.open_connection(addresses[-1], target.port, limit=PIECE, **tls)


class _Parsed:
    """The callbacks of httptools, and what they have heard."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.retry_after = ""
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            self.retry_after = value.decode("ascii", "replace")

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code()
        if status >= 200 or status == 101:
            self.status = status

    def on_message_complete(self) -> None:
        self.complete = self.status != 0


async def _answer(reader: asyncio.StreamReader) -> Answer:
    heard = _Parsed()
    size = 0
    while not heard.status:
        piece = await reader.read(PIECE)
        size += len(piece)
        if not piece:
            return Answer(0, "the receiver closed the connection without an answer")
        if size > LARGEST_ANSWER:
            return Answer(0, "the answer does not come to an end")
        heard.parser.feed_data(piece)
    with contextlib.suppress(OSError, TimeoutError, httptools.HttpParserError):
        async with asyncio.timeout(REST_S):
            while not heard.complete and size <= LARGEST_ANSWER and (piece := await reader.read(PIECE)):
                size += len(piece)
                heard.parser.feed_data(piece)
    wait = heard.retry_after
    waits = min(int(wait), LONGEST_WAIT_S) if wait.isascii() and wait.isdigit() and len(wait) < 10 else 0
    error = "" if 200 <= heard.status < 300 else f"it answered {heard.status}"
    return Answer(heard.status, error, waits)


def _request(target: Target, headers: Mapping[str, str], body: bytes) -> bytes:
    fields = {
        "host": target.authority,
        "user-agent": f"beamfleet/{__version__}",
        "accept": "*/*",
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        **headers,
    }
    head = f"POST {target.path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return head.encode("ascii") + b"\r\n" + body
