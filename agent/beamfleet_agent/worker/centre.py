"""Owns what a device believes of its server: the signed metadata, an assignment by them, and from both the time.

    pushed(document)   an assignment that came by itself, ordered by its sequence
    pulled()           the newest one, asked for with a nonce: nobody can have kept that answer in a drawer
    facts, manifest    what the product role signs about a release

A signed time that was accepted is the floor of all later checks, see `beamfleet_bundles.clock`. While the device's own
clock is behind it, TLS checks no date but the build time's. One worker at a time uses trust/: the agent's polls and its
fetches are processes of their own. Knows nothing of slots and decides about no update.
"""

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path

from beamfleet_bundles import assignment as assignments
from beamfleet_bundles import clock, trust
from beamfleet_bundles.assignment import Assignment
from beamfleet_bundles.chain import MAX_METADATA
from beamfleet_bundles.facts import Facts

from beamfleet_agent.errors import AgentError
from beamfleet_agent.worker.job import Job
from beamfleet_agent.worker.transport import Transport

MAX_DOCUMENT = max(MAX_METADATA.values())


class Centre:
    """The server of this device, for one job. now: what the device's clock says."""

    def __init__(self, job: Job, now: datetime) -> None:
        server = job.settings.server
        if server is None:
            raise AgentError("enrol.no_server", "this device knows no server", "give agent.toml a [server]")
        self._settings, self._job, self._now = job.settings, job, now
        directory = Path(job.paths.trust)
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.knows_the_time = not clock.is_behind(now, clock.BUILD_TIME, clock.SignedTime.load(directory))
        """Whether the device's clock shows a time that can be."""
        floor = None if self.knows_the_time else clock.BUILD_TIME  # a signed time may be a thief's: see `clock`
        self.transport = Transport(server.api, job.paths.ca, (job.paths.cert, job.paths.key), floor)

    def ask(self, known: str = "") -> tuple[str, bytes]:
        """The newest assignment, not looked at, with its tag; empty if there is none, or none but the one of this tag.

        A tag is the SHA-256 of the document.
        """
        found = self.transport.read_unless(known, "/assignment", assignments.MAX_SIZE, app=self._settings.app)
        tag = known if found is None else hashlib.sha256(found).hexdigest()
        return tag, b"" if found is None or tag == known else found

    def pushed(self, document: bytes, last: int) -> Assignment:
        """The assignment in `document`; `last` is the highest sequence so far. Errors `trust.*`, `assignment.*`."""
        return self._accept(document, last, None)

    def pulled(self, last: int) -> tuple[bytes, Assignment] | None:
        """The newest assignment, signed for this very question; None if the server has none. Errors as `pushed`."""
        nonce = secrets.token_hex(16)
        document = self.transport.read("/assignment", assignments.MAX_SIZE, app=self._settings.app, nonce=nonce)
        return (document, self._accept(document, last, nonce)) if document else None

    @cached_property
    def _updater(self) -> trust.Updater:
        """Made when it is needed: to look whether there is an assignment at all needs no metadata."""
        return trust.Updater(
            self._directory,
            lambda name: self.transport.stream(f"/metadata/{name}", MAX_DOCUMENT),
            self._job.trusted_root(),
            self._now,
            build_time=clock.BUILD_TIME,
            signed=clock.SignedTime.load(self._directory),
        )

    def refresh(self) -> None:
        """Brings the metadata up to date; errors `trust.*`."""
        with self._alone():
            self._updater.refresh()

    def facts(self, path: str) -> Facts:
        """What is signed about the manifest `path`; errors `trust.*`."""
        with self._alone():
            return self._updater.target(path)

    def manifest(self, facts: Facts) -> bytes:
        """The bytes of a manifest, as signed; FileNotFoundError if the server does not have them."""
        return self._updater.read(facts.path, lambda name: self.transport.stream(f"/targets/{name}", facts.length))

    def _accept(self, document: bytes, last: int, nonce: str | None) -> Assignment:
        of_here = self._settings
        with self._alone():
            updater = self._updater
            assigned = assignments.verify(
                document, updater.targets, device=of_here.device, app=of_here.app, last=last, now=updater.time,
                nonce=nonce,
            )  # fmt: skip
            updater.advance(assigned.time)
        return assigned

    @contextmanager
    def _alone(self) -> Iterator[None]:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
