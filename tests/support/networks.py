"""Networks of a test's own: namespaces, the cables between them, and devices and servers that live there.

Everything is made by root here and is gone at the end; nothing of this machine's own network is touched but the ends of
cables that lead into it.
"""

import contextlib
import itertools
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

from tests.support.server import Server

_ETC = Path("/etc/netns")
_numbers = itertools.count(1)
HERE = ""
"""The namespace of the test itself."""


def ip(*words: str, space: str = HERE) -> None:
    """Run `ip WORDS`, in a namespace."""
    subprocess.run(["ip", *(("-n", space) if space else ()), *words], check=True, capture_output=True, text=True)


class Namespace:
    """A network of its own, with a loopback; `hosts`: its names. Without `v4` nothing there has an IPv4 address."""

    def __init__(self, *, v4: bool = True, hosts: dict[str, str] | None = None, resolver: str = "") -> None:
        self.name = f"bf{os.getpid()}n{next(_numbers)}"
        self._cables: list[str] = []
        ip("netns", "add", self.name)
        ip("link", "set", "lo", "up", space=self.name)
        if not v4:
            ip("address", "del", "127.0.0.1/8", "dev", "lo", space=self.name)
        self._etc = _ETC / self.name
        self._etc.mkdir(parents=True)
        lines = {"localhost": "::1" if not v4 else "127.0.0.1", **(hosts or {})}
        (self._etc / "hosts").write_text("".join(f"{address} {name}\n" for name, address in lines.items()))
        (self._etc / "resolv.conf").write_text(f"nameserver {resolver}\n" if resolver else "")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it; cables go with it."""
        for end in self._cables:
            subprocess.run(["ip", "link", "del", end], check=False, capture_output=True)
        ip("netns", "del", self.name)
        shutil.rmtree(self._etc)
        with contextlib.suppress(OSError):  # somebody else's names are there
            _ETC.rmdir()

    def within(self, *words: str) -> list[str]:
        """The command line that runs `words` there."""
        return ["ip", "netns", "exec", self.name, *words]

    def run(self, *words: str) -> str:
        """Run a program there; its output."""
        return subprocess.run(self.within(*words), check=True, capture_output=True, text=True).stdout

    def cable(self, *ours: str, to: str, theirs: tuple[str, ...], router: str = "") -> str:
        """A cable to the namespace `to`, with these addresses at its ends; the name of our end. `router`: our way out,
        by each of these families' addresses."""
        number = next(_numbers)
        near, far = f"bf{os.getpid() % 100_000}a{number}", f"bf{os.getpid() % 100_000}b{number}"
        ip("link", "add", near, "netns", self.name, "type", "veth", "peer", "name", far)
        if to:
            ip("link", "set", far, "netns", to)
        else:
            self._cables.append(far)
        for space, end, addresses in ((self.name, near, ours), (to, far, theirs)):
            for address in addresses:
                ip("address", "add", address, "dev", end, *(("nodad",) if ":" in address else ()), space=space)
            ip("link", "set", end, "up", space=space)
        for word in filter(None, router.split(",")):
            ip("route", "add", "default", "via", word, space=self.name)
        return near

    def rules(self, text: str) -> None:
        """Set nftables to this, and nothing else."""
        subprocess.run(
            self.within("nft", "-f", "-"), input=f"flush ruleset\n{text}", check=True, capture_output=True, text=True
        )


class Away(Server):
    """A server in a namespace."""

    def __init__(self, space: Namespace, data: Path, **settings: object) -> None:
        super().__init__(data, **settings)
        self._space = space

    def _command(self) -> list[str]:
        return self._space.within(*super()._command())


class Agent:
    """The resident agent of the device in `root`, in a namespace or `HERE`."""

    def __init__(self, space: Namespace | str, root: Path) -> None:
        self.root, self.log = root, root / "agent.log"
        with self.log.open("ab") as log:
            command = [sys.executable, "-I", "-m", "beamfleet_agent", "run", "--root", str(root)]
            self.process = subprocess.Popen(
                command if isinstance(space, str) else space.within(*command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(30)

    def said(self, event: str) -> list[dict[str, Any]]:
        """The log lines with this event."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]


class Names:
    """A DNS server that knows `addresses` (name: IPv4 and IPv6 ones), on UDP; silent, it hears and says nothing."""

    def __init__(self, host: str, addresses: dict[str, tuple[str, ...]]) -> None:
        self._addresses, self.silent, self.asked = addresses, False, 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, 53))
        self._socket.settimeout(0.1)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._ended.is_set():
            try:
                question, asker = self._socket.recvfrom(512)
            except TimeoutError:
                continue
            self.asked += 1
            if not self.silent:
                self._socket.sendto(self._answer(question), asker)

    def _answer(self, question: bytes) -> bytes:
        end = question.index(b"\0", 12)
        labels, place = [], 12
        while place < end:
            size = question[place]
            labels.append(question[place + 1 : place + 1 + size].decode())
            place += 1 + size
        (kind,) = struct.unpack("!H", question[end + 1 : end + 3])
        family = {1: socket.AF_INET, 28: socket.AF_INET6}.get(kind)
        known = self._addresses.get(".".join(labels).lower())
        found = [
            socket.inet_pton(family, each)
            for each in known or ()
            if family and (":" in each) == (family == socket.AF_INET6)
        ]
        head = struct.pack("!2sHHHHH", question[:2], 0x8180 if known else 0x8183, 1, len(found), 0, 0)
        records = (struct.pack("!HHHIH", 0xC00C, kind, 1, 1, len(each)) + each for each in found)
        return head + question[12 : end + 5] + b"".join(records)
