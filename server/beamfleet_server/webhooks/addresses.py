"""Owns where webhooks may go: the form of their URLs, and the addresses that requests are sent to at all.

A webhook makes the server send requests into its own network for somebody else. So it goes to public addresses only,
unless a setting names further networks; a name is resolved once for each request, and what was looked at is what is
connected to. An address of IPv4 inside one of IPv6 (6to4, Teredo, NAT64) is looked at as well."""

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from beamfleet_server.errors import ServerError

LONGEST_URL = 2000
RESOLVERS = 64
"""Threads that may wait for name servers: of requests that were given up meanwhile as well."""
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""How a machine without IPv4 reaches it."""
UNICAST = ipaddress.IPv6Network("2000::/3")
"""All that is public of IPv6 today."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class NoAddressError(Exception):
    """A name leads nowhere, or only to where no request may go."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL in its parts; `path` with the query."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The header `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """What may be said of it in a log: the rest may be secret."""
        return f"{'https' if self.secure else 'http'}://{self.authority}"


def parsed(url: str) -> Target:
    """The parts of a webhook's URL; error `webhook.url`."""
    try:
        split = urlsplit(url)
        port = split.port
        host = (split.hostname or "").encode("ascii").decode()
    except ValueError:
        raise _no_url("it is no URL") from None
    if len(url) > LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise _no_url(f"it is longer than {LONGEST_URL} characters, or not plain ASCII without spaces")
    if split.scheme not in ("https", "http") or not host or port == 0:
        raise _no_url("it is not https://HOST/PATH")
    if split.username is not None or split.password is not None or split.fragment or "#" in url:
        raise _no_url("it has a user, a password or a fragment")
    if not all(character.isalnum() or character in ".-:_" for character in host):
        raise _no_url("its host is no name and no address")
    secure = split.scheme == "https"
    path = (split.path or "/") + (f"?{split.query}" if split.query else "")
    return Target(secure, host, port or (443 if secure else 80), path)


class Addresses:
    """The guard. `networks`: where requests may go beside public addresses (`10.1.0.0/16`); only there may they go
    without TLS. Error `server.settings` for what is no network."""

    def __init__(self, networks: Sequence[str] = ()) -> None:
        try:
            self._networks: list[Network] = [ipaddress.ip_network(each, strict=False) for each in networks]
        except ValueError as error:
            hint = "name networks as in webhook_networks = '10.1.0.0/16,fd00::/8'"
            raise ServerError("server.settings", f"webhook_networks: {error}", hint) from None
        self._looking = 0

    def check(self, target: Target) -> None:
        """Refuse a URL that can never be sent to; error `webhook.address`."""
        try:
            address = ipaddress.ip_address(target.host)
        except ValueError:
            if target.secure or self._networks:
                return
            what = "webhooks go over https, unless webhook_networks names where they may do without"
            raise ServerError("webhook.address", what, "give an https:// address") from None
        if not self.allowed(address, secure=target.secure):
            what = f"webhooks do not go to {address}: it is no public address, or not over https"
            raise ServerError("webhook.address", what, "name its network in the server's setting webhook_networks")

    def allowed(self, address: Address, *, secure: bool) -> bool:
        """True if a request may go there."""
        if any(address.version == each.version and address in each for each in self._networks):
            return True
        return secure and all(map(_public, _meant(address)))

    async def resolve(self, target: Target) -> list[str]:
        """The addresses of a target that requests may go to, in the order of the resolver; NoAddressError."""
        try:
            found = await self._look_up(target)
        except (OSError, UnicodeError):
            raise NoAddressError("its name is not known") from None
        allowed = [each for each in found if self.allowed(ipaddress.ip_address(each), secure=target.secure)]
        if not allowed:
            raise NoAddressError("its address is not public, and no network of webhook_networks")
        return allowed

    async def _look_up(self, target: Target) -> list[str]:
        """In a thread that nobody waits for: a name server that does not answer keeps no server from stopping."""
        if self._looking >= RESOLVERS:
            raise NoAddressError("too many names wait for their name servers")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[str]] = loop.create_future()

        def done(found: list[str], error: Exception | None) -> None:
            self._looking -= 1
            if not answer.done():
                answer.set_exception(error) if error else answer.set_result(found)

        def look() -> None:
            found: list[str] = []
            failed: Exception | None = None
            try:
                found = _lookup(target.host, target.port)
            except (OSError, UnicodeError) as error:
                failed = error
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(done, found, failed)

        self._looking += 1
        threading.Thread(target=look, name="webhook name", daemon=True).start()
        return await answer


def _lookup(host: str, port: int) -> list[str]:
    rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    found = [str(row[4][0]).partition("%")[0] for row in rows]
    return list(dict.fromkeys(found))


def _public(address: Address) -> bool:
    here = address.version == 4 or address in UNICAST
    return here and address.is_global and not address.is_multicast and not address.is_reserved


def _meant(address: Address) -> Iterator[Address]:
    """All addresses that a packet to this one may end at: it, and those of IPv4 that it carries."""
    if isinstance(address, ipaddress.IPv4Address):
        yield address
        return
    if address in NAT64:
        yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return
    yield address
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo


def _no_url(why: str) -> ServerError:
    return ServerError("webhook.url", f"the webhook's address cannot be used: {why}", "as in https://hooks.example/x")
