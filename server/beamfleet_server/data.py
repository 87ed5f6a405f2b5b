"""Owns the layout of the data directory, its lock, and what the server remembers beside the database.

DATA/beamfleet.db           everything that is a row, unless it is in PostgreSQL
DATA/ca/                    the fleet's authorities, the server's own certificates and keys
DATA/keys/                  online TUF keys: snapshot, timestamp, director
DATA/broker/                mosquitto.conf, acl, what mosquitto keeps
DATA/bundles/manifests|packs/   published files; a published path never changes its bytes
DATA/evidence/DEVICE/       what devices handed in, sealed; `evidence` has the layout
DATA/quarantine/            uploads that have not been verified; emptied at each start
DATA/admin.token            token of the first operator      DATA/ca.pem      the trusted authorities
DATA/server.json            addresses, ports and pid of the running (or last) server
DATA/lock                   held while a server runs, with its pid
"""

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beamfleet_bundles import durable

from beamfleet_server.errors import ServerError

LISTENERS = ("operators", "devices", "enrolment", "mqtt", "metrics")


class DataDirectory:
    """The paths of one data directory. `open` makes what is missing, takes the lock and clears what a kill left
    behind."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.database = root / "beamfleet.db"
        self.ca = root / "ca"
        self.keys = root / "keys"
        self.broker = root / "broker"
        self.manifests = root / "bundles" / "manifests"
        self.packs = root / "bundles" / "packs"
        self.evidence = root / "evidence"
        self.quarantine = root / "quarantine"
        self.admin_token = root / "admin.token"
        self.ca_certificate = root / "ca.pem"
        self.facts = root / "server.json"
        self._lock_path = root / "lock"
        self._lock: int | None = None

    def open(self) -> None:
        """Errors: `server.data_in_use` with the pid of the other server, `server.data_unusable`."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_lock()
            shutil.rmtree(self.quarantine, ignore_errors=True)
            for directory in (
                self.ca, self.keys, self.broker, self.manifests, self.packs, self.evidence, self.quarantine,
            ):  # fmt: skip
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            self.close()
            raise ServerError(
                "server.data_unusable",
                f"cannot use the data directory {self.root}: {error.strerror or error}",
                "name another one with --data, or mend its owner and mode",
            ) from None

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def remembered_ports(self) -> dict[str, int]:
        """Ports of the last start by listener; empty before the first one."""
        ports = self._read_facts().get("ports", {})
        return {name: port for name, port in ports.items() if name in LISTENERS and isinstance(port, int)}

    def remember(self, facts: Mapping[str, Any]) -> None:
        """Write server.json; readable by everyone who may enter the directory."""
        durable.replace(self.facts, json.dumps(facts, indent=1).encode() + b"\n")

    def _read_facts(self) -> dict[str, Any]:
        try:
            facts = json.loads(self.facts.read_bytes())
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}

    def _take_lock(self) -> None:
        descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip()
            os.close(descriptor)
            raise ServerError(
                "server.data_in_use",
                f"another server runs on {self.root}" + (f" (pid {holder})" if holder else ""),
                "stop it first, or name another directory with --data",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._lock = descriptor
