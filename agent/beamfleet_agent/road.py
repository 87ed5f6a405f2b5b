"""Owns the road to the broker: everything between its address and a TLS connection that MQTT can be spoken over.

    resolve -> connect, to one address after the other -> [the proxy opens the way] -> TLS
            -> [the server's HTTPS listener opens a WebSocket -> TLS with the broker within it]

Step by step in the agent's own loop, never a thread; only the resolver blocks, for a bounded time. Behind a proxy it is
asked for the proxy's name alone. Says nothing and knows no MQTT; whoever is met is a stranger, of whom only the head of
one answer is heard before TLS has shown who he is.
"""

import errno
import os
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Self

from beamfleet_agent import proxy
from beamfleet_agent.loop import READ, WRITE, Loop
from beamfleet_agent.paths import Paths
from beamfleet_agent.proxy import Head, Proxy
from beamfleet_agent.settings import Server, Settings
from beamfleet_agent.tls import Dateless

if TYPE_CHECKING:
    from beamfleet_agent.tunnel import Tunnel

ADDRESS_LIMIT_S = 4.0
"""How long one address of several is waited for: behind a dead IPv6 address there may be a live one of IPv4."""
MOST_ADDRESSES = 16
"""However many a resolver names."""
USER_TIMEOUT_MS = 30_000
_READ = (BlockingIOError, ssl.SSLWantReadError)
_WRITE = (BlockingIOError, ssl.SSLWantWriteError)


class Way(NamedTuple):
    """How the owner wants the broker to be reached. secret: what is shown to the proxy, if it is asked for."""

    proxy: Proxy | None = None
    websocket: bool = False
    secret: Callable[[], str] = str

    @classmethod
    def settled(cls, settings: Settings, paths: Paths) -> Self:
        """As the settings have it."""
        return cls(proxy.parse(settings.proxy), settings.transport == "websocket", lambda: proxy.secret(paths))

    def end(self, place: Server) -> tuple[str, int]:
        """Host and port that are to be reached."""
        return place.api_place if self.websocket else (place.mqtt_host, place.mqtt_port)


class Road:
    """One connection at a time. make_context: a client-side TLS context; may raise OSError.

    on_end: hears the connection that leads to the broker. on_lost: why there is none.
    """

    def __init__(
        self,
        loop: Loop,
        way: Way,
        make_context: Callable[[], ssl.SSLContext],
        on_end: Callable[[ssl.SSLSocket], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._loop, self._way, self._make_context = loop, way, make_context
        self._on_end, self._on_lost = on_end, on_lost
        self._addresses: list[tuple[int, socket._Address]] = []
        self._host, self._port = "", 0
        self._socket: socket.socket | None = None
        self._tunnel: Tunnel | None = None
        os.environ.setdefault("RES_OPTIONS", "timeout:2 attempts:1")  # what bounds the one call that blocks

    def go(self, place: Server) -> None:
        """Set out for `place`."""
        self._host, self._port = self._way.end(place)
        host, port = self._way.proxy or (self._host, self._port)
        try:
            found = socket.getaddrinfo(spelled(host), port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            self._on_lost(f"{host} cannot be resolved: {error}")
            return
        self._addresses = [(family, address) for family, _, _, _, address in found[:MOST_ADDRESSES]]
        self._dial("no address")

    def flush(self, within_s: float) -> None:
        """Have what was written leave this machine's user space, or give up after `within_s`."""
        if self._tunnel is not None:
            self._tunnel.flush(within_s)

    def close(self) -> None:
        """Forget where we were."""
        self._addresses = []
        self._drop()

    def _drop(self) -> None:
        self._loop.cancel("road.address")
        if self._socket is not None:
            if self._socket.fileno() >= 0:
                self._loop.unwatch(self._socket.fileno())
                self._socket.close()
            self._socket = None
        if self._tunnel is not None:
            self._tunnel.close()
            self._tunnel = None

    def _dial(self, why: str) -> None:
        self._drop()
        if not self._addresses:
            self._on_lost(why)
            return
        family, address = self._addresses.pop(0)
        try:
            plain = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:
            self._dial(str(error))
            return
        self._socket = plain
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        failure = plain.connect_ex(address)
        if failure not in (0, errno.EINPROGRESS):
            self._dial(os.strerror(failure))
            return
        if self._addresses:
            self._loop.after("road.address", ADDRESS_LIMIT_S, lambda: self._dial("nobody answers"))
        self._loop.watch(plain.fileno(), WRITE, lambda _: self._connected(plain))

    def _connected(self, plain: socket.socket) -> None:
        failure = plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failure:
            self._dial(os.strerror(failure))
            return
        self._loop.cancel("road.address")
        self._loop.unwatch(plain.fileno())
        if self._way.proxy is None:
            self._secure(plain)
            return
        shown = self._way.secret()
        self._ask(plain, proxy.request(self._host, self._port, shown), lambda head: self._passed(plain, head, shown))

    def _passed(self, plain: socket.socket, head: Head, shown: str) -> None:
        if why := proxy.refusal(head, shown=bool(shown)):
            self._on_lost(why)
        else:
            self._secure(plain)

    # --- TLS

    def _secure(self, plain: socket.socket) -> None:
        try:
            host = spelled(self._host)
            tls = self._make_context().wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
        except (OSError, ValueError) as error:
            self._on_lost(f"TLS cannot be set up: {error}")
            return
        self._socket = tls
        self._shake(tls)

    def _shake(self, tls: ssl.SSLSocket) -> None:
        try:
            tls.do_handshake()
            if isinstance(tls.context, Dateless):
                tls.context.check(tls)
        except ssl.SSLWantReadError:
            self._loop.watch(tls.fileno(), READ, lambda _: self._shake(tls))
        except ssl.SSLWantWriteError:
            self._loop.watch(tls.fileno(), WRITE, lambda _: self._shake(tls))
        except OSError as error:
            self._on_lost(f"TLS failed: {error}")
        else:
            if self._way.websocket and self._tunnel is None:
                self._upgrade(tls)
            else:
                self._on_end(tls)

    # --- a WebSocket, and TLS with the broker within it

    def _upgrade(self, tls: ssl.SSLSocket) -> None:
        from beamfleet_agent import tunnel

        key = tunnel.new_key()

        def answered(head: Head) -> None:
            if why := tunnel.refusal(head, key):
                self._on_lost(why)
                return
            self._tunnel = tunnel.Tunnel(self._loop, tls, head.rest)
            self._socket = self._tunnel.near
            self._secure(self._tunnel.near)

        self._ask(tls, tunnel.request(self._host, self._port, key), answered)

    # --- one question and the head of its answer

    def _ask(self, connection: socket.socket, question: bytes, answered: Callable[[Head], None]) -> None:
        try:
            while question:
                question = question[connection.send(question) :]
        except _WRITE:
            self._loop.watch(connection.fileno(), WRITE, lambda _: self._ask(connection, question, answered))
        except OSError as error:
            self._on_lost(str(error))
        else:
            self._hear(connection, b"", answered)

    def _hear(self, connection: socket.socket, said: bytes, answered: Callable[[Head], None]) -> None:
        try:
            while (head := proxy.head_of(said)) is None:
                if not (piece := connection.recv(proxy.MAX_HEAD)):
                    self._on_lost("the connection was closed without an answer")
                    return
                said += piece
        except _READ:
            self._loop.watch(connection.fileno(), READ, lambda _: self._hear(connection, said, answered))
        except (OSError, ValueError) as error:
            self._on_lost(str(error))
        else:
            self._loop.unwatch(connection.fileno())
            answered(head)


def spelled(host: str) -> bytes:
    """`host` as resolver and TLS take it. Given text, Python loads the tables of all the world's letters, 0.4 MB."""
    return host.encode("ascii" if host.isascii() else "idna")
