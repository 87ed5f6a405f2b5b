"""Owns the device's hold on the signed metadata: one durable updater, and what is learnt from it for everybody else.

    current()    the updater, brought up to date once; what it says of the server's whereabouts is kept (`bearings`)
    alone()      one worker at a time uses trust/: the agent's polls and its fetches are processes of their own

A server that was restored from a backup may hold less than this device has seen. Then it is offered what is kept here,
every document as it was signed; it verifies them with the owners' keys like anybody, and we look once more.
"""

import base64
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from beamfleet_bundles import clock, trust, whereabouts
from beamfleet_bundles.chain import MAX_METADATA
from beamfleet_bundles.errors import BeamfleetError, BundleError
from beamfleet_bundles.highwater import HighWater
from beamfleet_bundles.messages import MAX_PRODUCTS
from tuf.api.metadata import Targets

from beamfleet_agent import bearings
from beamfleet_agent.worker.job import Job

MAX_DOCUMENT = max(MAX_METADATA.values())
MAX_OFFER = 2 << 20
"""Largest offer in bytes, as JSON."""
MAX_ANSWER = 1 << 16

Offer = Callable[[bytes], object]
"""Hands a server what it may have lost; raises what `Transport.post` does."""

_log = structlog.get_logger(__name__)


class Metadata:
    """The metadata in trust/, as `fetch` brings it. offer: None where the server cannot be offered anything."""

    def __init__(self, job: Job, now: datetime, fetch: trust.Fetch, offer: Offer | None = None) -> None:
        self._job, self._now, self._fetch, self._offer = job, now, fetch, offer
        self._directory = Path(job.paths.trust)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._updater: trust.Updater | None = None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While no other worker uses trust/."""
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def current(self) -> trust.Updater:
        """The updater, after it has looked at the server once; errors `trust.*`."""
        if self._updater is None:
            updater = self._made()
            try:
                updater.refresh()
            except BundleError as error:
                if error.code != "trust.rollback" or not self._offered():
                    raise
                updater = self._made()
                updater.refresh()
            learn(self._job, updater.targets)
            self._updater = updater
        return self._updater

    def _made(self) -> trust.Updater:
        return trust.Updater(
            self._directory,
            self._fetch,
            self._job.trusted_root(),
            self._now,
            build_time=clock.BUILD_TIME,
            signed=clock.SignedTime.load(self._directory),
        )

    def _offered(self) -> bool:
        """Whether the server took what we have."""
        if self._offer is None:
            return False
        try:
            self._offer(offered(self._directory))
        except (BeamfleetError, OSError) as error:
            _log.warning("metadata not taken", detail=str(error))
            return False
        _log.info("metadata offered")
        return True


def learn(job: Job, targets: Targets) -> None:
    """Keep what verified `targets` say of the server, and which versions this device has. Error: OSError."""
    versions = kept(Path(job.paths.trust), targets.version)
    try:
        known = whereabouts.read(targets)
    except BundleError as error:  # of a later format: what an earlier version said goes on being good
        _log.warning("whereabouts not understood", code=error.code, detail=error.message)
        bearings.store_versions(job.paths, versions)
        return
    bearings.store(job.paths, known.bundle, [whereabouts.spell(server) for server in known.servers], versions)


def kept(directory: Path, targets: int = 0) -> dict[str, Any]:
    """The versions of the metadata in `directory`, below which this device takes nothing; `targets`: one more of it."""
    signed = {role: _signed(directory / f"{role}.json") for role in ("root", "timestamp", "snapshot", "targets")}
    listed = {name.removesuffix(".json"): _version(meta) for name, meta in _meta(signed["snapshot"]).items()}
    versions: dict[str, Any] = {role: _version(document) for role, document in signed.items()}
    versions["targets"] = max(versions["targets"], listed.pop("targets", 0), targets)
    here = sorted(listed, key=lambda name: (not (directory / f"{name}.json").exists(), name))
    versions["products"] = {name: listed[name] for name in here[:MAX_PRODUCTS]}
    return versions


def offered(directory: Path) -> bytes:
    """What a server may have lost, as the body of an offer: targets, products, and the roots from the newest down."""
    documents: dict[str, bytes] = {}
    pinned, cached = HighWater.load(directory).targets, _bytes(directory / "targets.json")
    documents["targets"] = max(cached, pinned, key=lambda data: _version(_signed_in(data)))
    for name in _meta(_signed(directory / "snapshot.json")):
        if name != "targets.json" and "/" not in name:
            documents[name.removesuffix(".json")] = _bytes(directory / name)
    roots = {_version(_signed(path)): path for path in directory.glob("root_history/*.root.json")}
    for number in sorted(roots, reverse=True):
        documents[f"{number}.root"] = _bytes(roots[number])
    said: dict[str, str] = {}
    room = MAX_OFFER - 64
    for role, data in documents.items():
        text = base64.b64encode(data).decode()
        room -= len(role) + len(text) + 8
        if data and room > 0:
            said[role] = text
    return json.dumps({"documents": said}, separators=(",", ":")).encode()


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _signed(path: Path) -> dict[str, Any]:
    return _signed_in(_bytes(path))


def _signed_in(data: bytes) -> dict[str, Any]:
    try:
        signed = json.loads(data)["signed"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return signed if isinstance(signed, dict) else {}


def _meta(snapshot: dict[str, Any]) -> dict[str, Any]:
    meta = snapshot.get("meta")
    return meta if isinstance(meta, dict) else {}


def _version(document: Any) -> int:
    number = document.get("version") if isinstance(document, dict) else 0
    return number if type(number) is int and number > 0 else 0
