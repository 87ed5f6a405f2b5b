"""Requests byte by byte, to any listener of the real server, with or without a certificate."""

import contextlib
import json
import socket
import ssl
from collections.abc import Callable

from tests.support.server import Identity
from tests.trust.hostile.ground import Ground

Give = Callable[[Ground], str]
LISTENER_TIMEOUT_S = 60
ADDRESSES = [f"127.0.1.{number}" for number in range(1, 9)]
"""Those of the loopback interface from which requests come in turn: of one address, not every refusal is told."""


def send(ground: Ground, listener: str, data: bytes, identity: Identity | None = None) -> str:
    """Send bytes as they are; the code of the answer, or how the connection ended."""
    host, _, port = ground.server.facts[listener].removeprefix("https://").rpartition(":")
    context = ssl.create_default_context(cafile=str(ground.server.ca))
    if identity is not None:
        context.load_cert_chain(identity.certificate, identity.key)
    answer = b""
    source = (ADDRESSES[next(ground.turns) % len(ADDRESSES)], 0)
    try:
        with context.wrap_socket(
            socket.create_connection((host, int(port)), LISTENER_TIMEOUT_S, source), server_hostname=host
        ) as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
                connection.sendall(data)
            while not whole(answer) and (piece := connection.recv(1 << 16)):
                answer += piece
    except ssl.SSLError as error:
        if not answer:
            return f"TLS: {error.reason}"
    except ConnectionError as error:
        if not answer:
            return type(error).__name__
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ")[1].decode() if head else "no answer"
    try:
        return str(json.loads(body)["code"])
    except (ValueError, KeyError, TypeError):
        return f"{status} without a code: {body[:100]!r}"


def whole(answer: bytes) -> bool:
    """Whether an answer has come to its end, by its own word."""
    head, found, body = answer.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return bool(found) and len(body) >= int(line.partition(b":")[2])
    return False


def request(method: str, path: str, body: bytes = b"", *, length: str | None = None, **headers: str) -> bytes:
    """The bytes of a request; `length` is announced instead of the true one."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if (body or length) and "Transfer_Encoding" not in headers:
        lines.append(f"Content-Length: {length or len(body)}")
    return "\r\n".join(lines).encode("latin1") + b"\r\n\r\n" + body


def operators(method: str, path: str, body: bytes = b"", **more: str) -> Give:
    """A request of an operator who may do everything."""
    headers = {"Content_Type": "application/json"} | more

    def give(ground: Ground) -> str:
        headers.setdefault("Authorization", f"Bearer {ground.server.token}")
        return send(ground, "operators", request(method, f"/api/v1{path}", body, **headers))

    return give


def devices(method: str, path: str, body: bytes = b"", **headers: str) -> Give:
    """A request of a device with a good certificate."""
    return lambda ground: send(ground, "devices", request(method, path, body, **headers), ground.identity)


def bare(listener: str, data: bytes) -> Give:
    """These bytes, from nobody."""
    return lambda ground: send(ground, listener, data)
