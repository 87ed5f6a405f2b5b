"""Owns what a device believes of its server: the signed metadata, an assignment by them, and from both the time.

    pushed(document)   an assignment that came by itself, ordered by its sequence
    pulled()           the newest one, asked for with a nonce: nobody can have kept that answer in a drawer
    facts, manifest    what the product role signs about a release

A signed time that was accepted is the floor of all later checks, see `beamfleet_bundles.clock`. While the device's own
clock is behind it, TLS checks no date but the build time's. Knows nothing of slots and decides about no update.
"""

import hashlib
import secrets
from datetime import datetime
from typing import NamedTuple

from beamfleet_bundles import assignment as assignments
from beamfleet_bundles import recipients
from beamfleet_bundles.assignment import Assignment
from beamfleet_bundles.facts import Facts
from beamfleet_bundles.recipients import Recipient

from beamfleet_agent.update_state import director_replaced
from beamfleet_agent.worker import server
from beamfleet_agent.worker.job import Job
from beamfleet_agent.worker.metadata import MAX_ANSWER, MAX_DOCUMENT, Metadata


class Order(NamedTuple):
    """The newest assignment that was accepted: its sequence, and the ids of the keys that could sign it."""

    sequence: int
    director: str = ""


NOTHING = Order(0)


class Centre:
    """The server of this device, for one job. now: what the device's clock says."""

    def __init__(self, job: Job, now: datetime) -> None:
        self._settings = job.settings
        self.transport = server.devices_listener(job, now)
        self.knows_the_time = server.knows_the_time(job, now)
        """Whether the device's clock shows a time that can be."""
        self._metadata = Metadata(
            job, now,
            lambda name: self.transport.stream(f"/metadata/{name}", MAX_DOCUMENT),
            lambda body: self.transport.post("/metadata", body, "application/json", MAX_ANSWER),
        )  # fmt: skip

    def ask(self, known: str = "") -> tuple[str, bytes]:
        """The newest assignment, not looked at, with its tag; empty if there is none, or none but the one of this tag.

        A tag is the SHA-256 of the document.
        """
        found = self.transport.read_unless(known, "/assignment", assignments.MAX_SIZE, app=self._settings.app)
        tag = known if found is None else hashlib.sha256(found).hexdigest()
        return tag, b"" if found is None or tag == known else found

    def pushed(self, document: bytes, last: Order) -> Assignment:
        """The assignment in `document`; `last` is the highest so far. Errors `trust.*`, `assignment.*`."""
        return self._accept(document, last, None)

    def pulled(self, last: Order = NOTHING) -> tuple[bytes, Assignment] | None:
        """The newest assignment, signed for this very question; None if the server has none. Errors as `pushed`."""
        nonce = secrets.token_hex(16)
        document = self.transport.read("/assignment", assignments.MAX_SIZE, app=self._settings.app, nonce=nonce)
        return (document, self._accept(document, last, nonce)) if document else None

    def refresh(self) -> None:
        """Brings the metadata up to date; errors `trust.*`."""
        with self._metadata.alone():
            self._metadata.current()

    def facts(self, path: str) -> Facts:
        """What is signed about the manifest `path`; errors `trust.*`."""
        with self._metadata.alone():
            return self._metadata.current().target(path)

    def manifest(self, facts: Facts) -> bytes:
        """The bytes of a manifest, as signed; FileNotFoundError if the server does not have them."""
        return self._metadata.current().read(
            facts.path, lambda name: self.transport.stream(f"/targets/{name}", facts.length)
        )

    @property
    def recipients(self) -> tuple[Recipient, ...]:
        """Who may open this device's evidence, by the newest signed targets; errors `trust.*`, `evidence.schema`."""
        with self._metadata.alone():
            return recipients.read(self._metadata.current().targets)

    @property
    def director(self) -> str:
        """Ids of the keys that may sign assignments, apart by spaces."""
        with self._metadata.alone():
            return " ".join(assignments.director_keys(self._metadata.current().targets))

    def _accept(self, document: bytes, last: Order, nonce: str | None) -> Assignment:
        of_here = self._settings
        director = self.director
        with self._metadata.alone():
            updater = self._metadata.current()
            sequence = 0 if director_replaced(last.director, director) else last.sequence
            assigned = assignments.verify(
                document, updater.targets, device=of_here.device, app=of_here.app, last=sequence, now=updater.time,
                nonce=nonce,
            )  # fmt: skip
            updater.advance(assigned.time)
        return assigned
