"""Owns the HTTP proxy that a device's connections may have to pass: its address, who we are there, what it answers.

The address is a setting. What we show it, USER:PASSWORD, is a file of its own that nobody else reads, since everybody
may read the settings; it is read when it is needed, and never stands in a message, a log or a report. A proxy is a
stranger: of its answer only so much is heard, and nothing believed but that the way is open. Part of the resident
agent.
"""

import binascii
import socket
import time
from typing import NamedTuple

from beamfleet_agent.errors import AgentError
from beamfleet_agent.paths import Paths

MAX_HEAD = 8_192
MAX_SECRET = 1_024
_SCHEME = "http://"
_HINT = 'write it as proxy = "http://HOST:PORT"'


class Proxy(NamedTuple):
    """Where a proxy listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return joined(self.host, self.port)


class Head(NamedTuple):
    """The head of an HTTP answer; names of fields in lower case. `rest`: what came behind it."""

    status: int
    fields: dict[bytes, bytes]
    rest: bytes


def parse(address: str) -> Proxy | None:
    """The proxy that the setting names; None for "". Error `agent.settings`, which shows nothing of it."""
    if not address:
        return None
    host, port = place(address.removeprefix(_SCHEME).rstrip("/"))
    if "@" in address:
        hint = "write USER:PASSWORD to identity/proxy, with mode 0600; everybody may read agent.toml"
        raise AgentError("agent.settings", "proxy has a user in it", hint)
    if not address.startswith(_SCHEME) or not host:
        raise AgentError("agent.settings", "proxy is not http://HOST:PORT", _HINT)
    return Proxy(host, port)


def split(word: str) -> tuple[str, str]:
    """(address, "USER:PASSWORD" or "") of http://USER:PASSWORD@HOST:PORT, as it is given when a device is laid down.

    Error `agent.settings`, which shows nothing of it.
    """
    from urllib.parse import unquote

    user, at, there = word.removeprefix(_SCHEME).rpartition("@")
    if not at:
        parse(word)
        return word.rstrip("/"), ""
    secret = unquote(user)
    if not word.startswith(_SCHEME) or not 0 < len(secret.encode()) <= MAX_SECRET or not secret.isprintable():
        raise AgentError("agent.settings", "proxy is not http://USER:PASSWORD@HOST:PORT", _HINT)
    parse(f"{_SCHEME}{there}")
    return f"{_SCHEME}{there}".rstrip("/"), secret if ":" in secret else f"{secret}:"


def secret(paths: Paths) -> str:
    """What we show the proxy, USER:PASSWORD; empty if there is nothing, or not for us."""
    try:
        with open(paths.proxy_secret, "rb") as file:
            said = file.read(MAX_SECRET).decode().strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return said if said.isprintable() else ""


def request(host: str, port: int, shown: str) -> bytes:
    """What asks a proxy for the way to host and port; `shown` is the secret, or empty."""
    there = joined(host.encode("ascii" if host.isascii() else "idna").decode("ascii"), port)
    lines = [f"CONNECT {there} HTTP/1.1", f"Host: {there}"]
    if shown:
        word = binascii.b2a_base64(shown.encode(), newline=False).decode("ascii")
        lines.append(f"Proxy-Authorization: Basic {word}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def refusal(head: Head, *, shown: bool) -> str:
    """Why the way is not open after all; empty if it is. `shown`: whether we said who we are."""
    if head.status == 407:
        return "the proxy does not take user and password" if shown else "the proxy wants user and password"
    if not 200 <= head.status < 300:
        return f"the proxy refuses the way: status {head.status}"
    return "the proxy speaks before it is asked" if head.rest else ""


def head_of(said: bytes) -> Head | None:
    """The head of an answer whose first bytes these are; None if more has to come. Error: ValueError, in words."""
    end = said.find(b"\r\n\r\n")
    if (end < 0 and len(said) >= MAX_HEAD) or end > MAX_HEAD:
        raise ValueError("the answer is too long")
    first, *lines = said[: max(end, 0) or len(said)].split(b"\r\n")
    if not (first.startswith(b"HTTP/1.") or b"HTTP/1.".startswith(first[:7])):
        raise ValueError("the answer is not HTTP")
    if end < 0:
        return None
    words = first.split(b" ", 2)
    if len(words) < 2 or len(words[1]) != 3 or not words[1].isdigit():
        raise ValueError("the answer has no status")
    fields = (line.partition(b":") for line in lines)
    return Head(int(words[1]), {name.strip().lower(): value.strip() for name, _, value in fields}, said[end + 4 :])


def pass_through(connection: socket.socket, host: str, port: int, shown: str, within_s: float) -> None:
    """Have the proxy at the other end open the way to host and port. Error: OSError, in words."""
    end = time.monotonic() + within_s
    connection.sendall(request(host, port, shown))
    said = b""
    try:
        while (head := head_of(said)) is None:
            connection.settimeout(max(0.001, end - time.monotonic()))
            if not (piece := connection.recv(MAX_HEAD)):
                raise OSError("the proxy closed the connection")
            said += piece
    except ValueError as error:
        raise OSError(f"the proxy makes no sense: {error}") from None
    if why := refusal(head, shown=bool(shown)):
        raise OSError(why)


def joined(host: str, port: int) -> str:
    """HOST:PORT, as it stands in addresses."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def place(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT; an empty host if it is none."""
    host, _, port = address.rpartition(":")
    host = host[1:-1] if host[:1] == "[" and host[-1:] == "]" and ":" in host else host if ":" not in host else ""
    good = host.isprintable() and not set(host) & set(" /?#@[]\\") and port.isascii() and port.isdecimal()
    return (host, int(port)) if good and len(host) < 256 and len(port) < 6 and 0 < int(port) < 65_536 else ("", 0)
