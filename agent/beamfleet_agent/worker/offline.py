"""Owns installing from a `.bundle` file, without any network: the metadata inside it proves what may run.

root -> targets -> product -> manifest, all from the file, from the newest root that this device has trusted. What was
trusted is pinned, so that neither a file nor the network can go back behind it.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from beamfleet_bundles import assignment as assignments
from beamfleet_bundles import chain, clock, names, offline
from beamfleet_bundles.bundle import Bundle

from beamfleet_agent.worker import fitness
from beamfleet_agent.worker.fetch import into_slot
from beamfleet_agent.worker.job import Job, release_of


def stage(job: Job) -> dict[str, Any]:
    """The facts of the release in the bundle file, once its slot is whole; {} when the agent did not want it.

    Errors `bundle.*`, `trust.*` and others.
    """
    bundle = Bundle.open(Path(str(job.words["path"])))
    trust_dir, manifest = Path(job.paths.trust), bundle.manifest
    root = offline.trusted_root(trust_dir, job.trusted_root())
    signed = clock.SignedTime.load(trust_dir).under(chain.parse_root(root).signed.version)
    verified = offline.verify_offline(
        bundle.metadata,
        bundle.manifest_bytes,
        names.target_path(manifest.product, manifest.version, manifest.target),
        root,
        clock.reference_time(datetime.now(UTC), clock.BUILD_TIME, signed),
        offline.known_targets(trust_dir),
    )
    fitness.check(verified.facts, job.settings.hardware)
    assignments.check_floor(verified.facts, job.floor(verified.facts.custom.product))
    job.tell(checked={"sequence": 0, "attempt": 0, "release": release_of(manifest, verified.facts.custom.floor)})
    if not job.may_proceed():
        return {}
    release = into_slot(job, verified.facts, bundle.manifest_bytes, bundle.pack_chunks())
    offline.pin(trust_dir, verified)
    return release
