"""Owns telling systemd how the server is (sd_notify): ready, stopping. Without systemd it does nothing."""

import contextlib
import os
import socket


def tell(state: str) -> None:
    """Send `READY=1` or the like to the service manager that started this process, if one did."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith(("/", "@")):
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out,
        ):
            out.connect(address.replace("@", "\0", 1))
            out.sendall(state.encode())
