"""Owns the way of an assignment into a slot: verified against TUF, fitted to the device, fetched, written, verified.

    refresh metadata -> verify the assignment (one that has expired: ask for a fresh one)
    -> checked, wait for the agent's word -> the product's signature on the same bytes
    -> fit, floor -> manifest -> room -> pack -> slot

A slot that is there already is verified and used. Nothing is written outside trust/ and staging/ before it is verified.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from beamfleet_bundles import assignment as assignments
from beamfleet_bundles import manifest as manifests
from beamfleet_bundles import names, pack
from beamfleet_bundles.assignment import Assignment
from beamfleet_bundles.bundle import MAX_PACK
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.facts import Facts
from beamfleet_bundles.manifest import FileEntry, Manifest
from structlog.contextvars import bind_contextvars

from beamfleet_agent.errors import AgentError
from beamfleet_agent.update_state import Release
from beamfleet_agent.worker import fitness
from beamfleet_agent.worker.centre import Centre, Order
from beamfleet_agent.worker.job import Job, release_of


def poll(job: Job) -> dict[str, Any]:
    """{"document": the assignment that the server has for this device, or "", "tag": what to call it the next time}.

    A job that gives the tag of the last one as `known` is told of a newer one only. With a nonce, and verified at once,
    when the job says `prove` or the device does not know the time: then the time is known afterwards. `prove` looks at
    the metadata in any case, also when there is no assignment.
    """
    centre = Centre(job, datetime.now(UTC))
    if not job.words.get("prove") and centre.knows_the_time:
        tag, found = centre.ask(str(job.words.get("known", "")))
        return {"document": found.decode("utf-8", "replace"), "tag": tag}
    answer = centre.pulled()
    if answer is None and job.words.get("prove"):
        centre.refresh()
    return {"document": answer[0].decode() if answer else "", "tag": ""}


def fetch(job: Job) -> dict[str, Any]:
    """The facts of the release whose slot is now whole; {} when the agent did not want it."""
    centre, settings = Centre(job, datetime.now(UTC)), job.settings
    last = Order(int(job.words["sequence"]), str(job.words.get("director", "")))
    assigned = _assigned(centre, str(job.words["document"]).encode(), last)
    release = None
    if assigned.path is not None:
        product, version, _ = names.parse_target_path(assigned.path)
        release = Release(assigned.sha256, product, version)._asdict()
    order = {"sequence": assigned.sequence, "attempt": assigned.attempt, "director": centre.director}
    order["forced"], order["trace"] = assigned.force, assigned.traceparent
    if assigned.traceparent:
        bind_contextvars(trace_id=assigned.traceparent[3:35])
    job.tell(checked={**order, "release": release})
    if assigned.path is None or not job.may_proceed():
        return {}
    facts = centre.facts(assigned.path)
    assignments.check_match(assigned, facts)
    fitness.check(facts, settings.hardware)
    assignments.check_floor(facts, job.floor(facts.custom.product))
    stream = centre.transport.stream
    try:
        return into_slot(job, facts, centre.manifest(facts), stream(f"/packs/{facts.sha256}/full", MAX_PACK))
    except FileNotFoundError as error:
        hint = "publish the bundle again; its data is missing on the server"
        raise AgentError("worker.not_found", f"the server has no {error}", hint) from error


def _assigned(centre: Centre, document: bytes, last: Order) -> Assignment:
    """The assignment in `document`; if its time has run out, the same one fresh, if the server still means it."""
    try:
        return centre.pushed(document, last)
    except BundleError as error:
        if error.code != "assignment.expired":
            raise
        found = centre.pulled(last)
        if found is None:
            raise
        return found[1]


def into_slot(job: Job, facts: Facts, manifest_bytes: bytes, chunks: Iterable[bytes]) -> dict[str, Any]:
    """The facts of the release, once its slot is whole; `chunks` are read only if it was not."""
    manifest = manifests.decode(facts.verify(manifest_bytes))
    release = release_of(manifest, facts.custom.floor)
    with job.slots.lock():
        if not _there(job, manifest):
            job.slots.make_room(manifest, job.in_use())
            job.slots.write(manifest, _pieces(chunks, manifest), lambda done: job.progress(done, manifest.unpacked))
            job.tell(verified=release)
            job.slots.publish(manifest.id)
    return release


def clean(job: Job) -> dict[str, Any]:
    """Empties staging/ of what an earlier worker left there."""
    with job.slots.lock():
        return {}


def verify(job: Job) -> dict[str, Any]:
    """The facts of the release in a slot whose every file is as signed. Errors `slot.missing`, `slot.damaged`."""
    return release_of(job.slots.verify(str(job.words["slot"])))


def _there(job: Job, manifest: Manifest) -> bool:
    """Whether the slot is there and sound. A damaged one is fetched again, unless it is in use: then it stays."""
    try:
        job.slots.verify(manifest.id)
    except AgentError as error:
        if error.code == "slot.damaged" and manifest.id in job.in_use():
            raise
        return False
    return True


def _pieces(chunks: Iterable[bytes], manifest: Manifest) -> Iterable[tuple[FileEntry, bytes]]:
    yield from pack.unpack(chunks, manifest)
