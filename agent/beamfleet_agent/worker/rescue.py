"""Owns the way back for a device that no longer believes its server: the fleet's authority was changed while it slept.

Somebody answers at every address that it knows, and nobody that it trusts vouches for him. The top-level metadata is
public and signed by the owners, so it may come from anybody: it is fetched from the enrolment listener over TLS that
verifies nothing, verified like any metadata, against the embedded root and everything that this device has seen, and
the whereabouts in it say whom to trust now. Nothing else ever travels like this, in neither direction: no certificate,
no token, no request of ours. A liar there can withhold, as everywhere.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Any

import structlog
from beamfleet_bundles.errors import BeamfleetError

from beamfleet_agent import bearings
from beamfleet_agent.worker import server
from beamfleet_agent.worker.job import Job
from beamfleet_agent.worker.metadata import MAX_DOCUMENT, Metadata
from beamfleet_agent.worker.transport import Transport, UntrustedError

Work = Callable[[Job], dict[str, Any]]

_log = structlog.get_logger(__name__)


def rescued(work: Work) -> Work:
    """`work`; if it fails because nobody is trusted, once more with what the signed metadata says now."""

    @wraps(work)
    def whole(job: Job) -> dict[str, Any]:
        try:
            return work(job)
        except UntrustedError:
            if job.told or not find_again(job, datetime.now(UTC)):
                raise
        return work(job)

    return whole


def find_again(job: Job, now: datetime) -> bool:
    """Whether signed metadata names other authorities or addresses than those that we went by; then they are kept."""
    before = _trusted(job)
    for address in dict.fromkeys(place.enrol for place in server.known(job)):
        anybody = Transport(address, None, through=server.through(job))
        metadata = Metadata(job, now, lambda name, way=anybody: way.stream(f"/metadata/{name}", MAX_DOCUMENT))
        try:
            with metadata.alone():
                metadata.current()
        except (BeamfleetError, OSError) as error:
            _log.warning("no metadata", address=address, detail=str(error))
        if _trusted(job) != before:
            _log.info("trust found again", address=address)
            return True
    return False


def _trusted(job: Job) -> tuple[bytes, object]:
    with open(bearings.authorities(job.paths), "rb") as file:
        return file.read(), bearings.load(job.paths).servers
