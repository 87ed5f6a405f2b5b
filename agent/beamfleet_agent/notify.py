"""Owns telling the init what becomes of this process, in the protocol of sd_notify(3); silent where nobody listens.

READY=1 once the agent answers, STOPPING=1 when it leaves, WATCHDOG=1 so often that systemd does not take it for hung.
A sign of life rides on what wakes the loop up anyway (`alive`); a timer of half the allowed time is only the rest.
"""

import os
import socket
from collections.abc import MutableMapping

from beamfleet_agent.loop import Loop


class Notify:
    """Takes $NOTIFY_SOCKET and $WATCHDOG_USEC out of `environment`: they are not for the worker."""

    def __init__(self, loop: Loop, environment: MutableMapping[str, str] = os.environ) -> None:
        self._loop = loop
        address = environment.pop("NOTIFY_SOCKET", "")
        limit_us, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        ours = limit_us.isdecimal() and pid in ("", str(os.getpid()))
        self._period_s = int(limit_us) / 2e6 if ours and self._address else 0.0

    def ready(self) -> None:
        """The agent answers."""
        self._tell(b"READY=1")
        self.alive()

    def alive(self) -> None:
        """The loop turns."""
        if self._period_s:
            self._loop.after("notify.watchdog", self._period_s, self.alive)
            self._tell(b"WATCHDOG=1")

    def stopping(self) -> None:
        """The agent leaves."""
        self._tell(b"STOPPING=1")

    def _tell(self, word: bytes) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as line:
                line.sendto(word, self._address)
        except OSError:  # an init that does not listen stops nobody
            pass
