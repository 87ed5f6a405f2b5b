"""Owns the listening sockets and the uvicorn servers on them."""

import asyncio
import contextlib
import errno
import random
import socket
import ssl
from collections.abc import Iterator

from starlette.types import ASGIApp
from uvicorn import Config, Server

from beamfleet_server.errors import ServerError
from beamfleet_server.tls import PeerCertificateProtocol

BACKLOG = 1024
HANDSHAKE_S = 15.0
GOOD_BYE_S = 5.0
"""How long the client's TLS good-bye is waited for; a connection whose other side is gone ends then."""
SETTLE_S = 0.2
"""How long a listener that was replaced has for those that it has just accepted."""
GRACE_S = 5
"""How long requests may go on when the server stops."""
KEEP_ALIVE_S = 30
QUIET_PORTS = range(10_240, 32_768)
"""Below what Linux gives to outgoing connections: a port that is to be the same after a restart must not be among
those, and a client on this machine that tries one of them while nobody listens may end up connected to itself."""
TRIES = 50


def bind(name: str, host: str, port: int) -> socket.socket:
    """A listening socket of the listener `name`; port 0 takes a free one. Error `server.port_taken`."""
    if port:
        return _bind(name, host, port)
    for candidate in (*random.sample(QUIET_PORTS, TRIES), 0):
        with contextlib.suppress(ServerError):
            return _bind(name, host, candidate)
    return _bind(name, host, 0)


def _bind(name: str, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY where it reads that this is TCP; without it the body of an answer is 40 ms late
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise unavailable(name, host, port, error) from None
    return listener


def unavailable(name: str, host: str, port: int, error: OSError) -> ServerError:
    """The error for an address that cannot be listened on."""
    if error.errno == errno.EADDRINUSE:
        what, hint = f"the port {port} on {host} is in use", "stop what listens there, or choose another port"
    else:
        what, hint = f"cannot listen on {host} port {port}: {error.strerror}", "choose another --host, or another port"
    return ServerError("server.port_taken", f"{name}: {what}", f"{hint} with --{name}-port (0 takes a free one)")


class Listener:
    """One HTTPS server in this process's event loop, or one of plain HTTP without a context. `dated`: answers say what
    time it is."""

    def __init__(
        self, app: ASGIApp, listening: socket.socket, context: ssl.SSLContext | None, *, dated: bool = True
    ) -> None:
        self._socket = listening
        config = Config(
            app,
            http=PeerCertificateProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=dated,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
            ssl_context_factory=None if context is None else lambda _, __: context,
        )
        self._server = _Server(config)

    async def run(self) -> None:
        """Serve until `stop`."""
        await self._server.serve([self._socket])

    async def use(self, context: ssl.SSLContext) -> None:
        """Speak TLS like this from the next connection on; those that are open stay."""
        await self._server.use(context)

    async def ready(self) -> None:
        """Wait until requests are answered."""
        await self._server.answering.wait()

    def stop(self) -> None:
        """Let requests finish, then `run` returns."""
        self._server.should_exit = True


class _Server(Server):
    """Tells when it answers. Signals are the process's business, not that of one of its listeners."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.answering = asyncio.Event()
        self._sockets: list[socket.socket] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's own, with a deadline for the TLS handshake: whoever connects and says nothing would otherwise
        hold a connection for a minute, before anything that counts connections sees it."""
        await self.lifespan.startup()
        self._sockets = list(sockets or ())
        await self._listen()
        self.started = True
        self.answering.set()

    async def use(self, context: ssl.SSLContext) -> None:
        """Listen with another context. The socket stays, and who waits in its queue is answered."""
        self.config.ssl = context
        old = list(self.servers)
        await self._listen()
        loop = asyncio.get_running_loop()
        for listening in [each for server in old for each in server.sockets]:
            loop.remove_reader(listening.fileno())
        await asyncio.sleep(SETTLE_S)  # a server that is closed drops whom it has accepted and not yet made ready
        for server in old:
            server.close()

    async def _listen(self) -> None:
        """Each server gets a descriptor of its own: closing it leaves the socket to the next one."""
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(
                self._protocol,
                sock=each.dup(),
                ssl=self.config.ssl,
                backlog=BACKLOG,
                ssl_handshake_timeout=HANDSHAKE_S if self.config.ssl else None,
                ssl_shutdown_timeout=GOOD_BYE_S if self.config.ssl else None,
            )
            for each in self._sockets
        ]

    def _protocol(self) -> PeerCertificateProtocol:
        return PeerCertificateProtocol(self.config, self.server_state, self.lifespan.state)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
