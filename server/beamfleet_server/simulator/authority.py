"""Owns the signed metadata, which a simulated fleet verifies once for all of its devices, and checking assignments.

Every assignment is verified for its device as a real one does it: the director's signature, device, sequence, expiry,
the bytes that the product signs. The way there is shared: one cache of metadata, fetched with one device's certificate
over the devices' listener, looked at again when an assignment names what is not known yet.
"""

import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
from beamfleet_bundles import assignment, chain
from beamfleet_bundles.assignment import Assignment
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.facts import Facts, read_facts
from beamfleet_bundles.trust import Updater
from tuf.api.metadata import Targets

APP = "main"
TIMEOUT_S = 30


class Authority:
    """api: URL of the devices' listener. pair: certificate and key of a device. root: the anchor of trust."""

    def __init__(self, directory: Path, api: str, authorities: Path, pair: Path, root: bytes) -> None:
        self._directory, self._api, self._root = directory, api, root
        self._session = requests.Session()
        self._session.verify, self._session.cert = str(authorities), str(pair)
        self._session.trust_env = False
        self._lock = threading.Lock()
        self._targets: Targets | None = None
        self._updater: Updater | None = None
        self._facts: dict[str, Facts] = {}
        self._wanted: set[str] = set()
        self.versions: dict[str, Any] = {"root": 0, "timestamp": 0, "snapshot": 0, "targets": 0, "products": {}}

    def refresh(self) -> None:
        """Look at the metadata, and at what was asked for in vain; blocks. Errors `trust.*`."""
        with self._lock:
            updater = Updater(self._directory, self._fetched, self._root, datetime.now(UTC))
            updater.refresh()
            for path in [*self._facts, *self._wanted]:
                try:
                    self._facts[path] = updater.target(path)
                except BundleError as error:
                    if error.code != "trust.unknown_target":
                        raise
                    self._facts.pop(path, None)
            self._wanted.clear()
            self._targets, self._updater = updater.targets, updater
            self.versions = {**updater.versions, "products": {}}

    def releases(self, product: str, version: str) -> list[Facts]:
        """What is signed about a release, for each of its targets; blocks. [] where nothing is."""
        with self._lock:
            if self._updater is None or self._targets is None or product not in chain.product_roles(self._targets):
                return []
            self._updater.find(f"{product}/{version}/any/manifest")  # has its product's list fetched and verified
            listed = chain.parse_targets((self._directory / f"{product}.json").read_bytes(), product).signed
            found = [read_facts(path, each.length, each.hashes, each.custom) for path, each in listed.targets.items()]
        return [facts for facts in found if facts.custom.version == version]

    def check(self, document: bytes, device: str, last: int) -> tuple[Assignment, Facts | None]:
        """The verified assignment and the facts of what it chooses; errors `assignment.*`, `trust.*`."""
        if self._targets is None:
            raise BundleError("trust.unavailable", "the metadata has not been seen yet")
        now = datetime.now(UTC)
        said = assignment.verify(document, self._targets, device=device, app=APP, last=last, now=now)
        if said.path is None:
            return said, None
        facts = self._facts.get(said.path)
        if facts is None:
            self._wanted.add(said.path)
            raise BundleError("trust.unknown_target", f"no role signs {said.path[:160]}")
        assignment.check_match(said, facts)
        return said, facts

    def _fetched(self, name: str) -> Iterable[bytes]:
        answer = self._session.get(f"{self._api}/metadata/{name}", timeout=TIMEOUT_S, allow_redirects=False)
        if answer.status_code == 404:
            raise FileNotFoundError(name)
        answer.raise_for_status()
        return [answer.content]
