"""Owns the server's online keys: snapshot, timestamp and director, made at the first start in DATA/keys.

None of them can make a runnable bundle: the product, targets and root keys never come here.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from beamfleet_bundles import assignment, keys
from beamfleet_bundles.assignment import Assignment
from beamfleet_bundles.chain import DIRECTOR
from beamfleet_bundles.publication import ONLINE_ROLES
from securesystemslib.signer import CryptoSigner, Key

from beamfleet_server.clock import Clock
from beamfleet_server.store.assignments import Wanted
from beamfleet_server.tracing.ids import TraceIds


class OnlineKeys:
    """The signers by role. `trace_ids` are those of the assignments' traces, None where nobody traces."""

    def __init__(self, signers: Mapping[str, CryptoSigner], clock: Clock, *, traced: bool = False) -> None:
        self.signers = signers
        self._clock = clock
        self.trace_ids = TraceIds(signers[DIRECTOR].public_key.keyid) if traced else None

    @classmethod
    def open(cls, directory: Path, clock: Clock, *, traced: bool = False) -> "OnlineKeys":
        """Load the keys from `directory`; make those that are not there. Errors `trust.key_*`."""
        paths = {role: directory / f"{role}.key" for role in ONLINE_ROLES}
        signers = {role: keys.load(path) if path.exists() else keys.generate(path) for role, path in paths.items()}
        return cls(signers, clock, traced=traced)

    @property
    def public(self) -> dict[str, Key]:
        """The public halves by role."""
        return {role: signer.public_key for role, signer in self.signers.items()}

    @property
    def described(self) -> dict[str, dict[str, Any]]:
        """The public halves by role, as they travel."""
        return {role: keys.public(signer) for role, signer in self.signers.items()}

    def sign_assignment(self, wanted: Wanted, nonce: str | None = None) -> bytes:
        """The signed assignment, good for `assignment.LIFETIME` from now; `nonce` answers the device that asked."""
        now = self._clock()
        said = Assignment(
            device=wanted.device,
            app=wanted.app,
            sequence=wanted.sequence,
            attempt=wanted.attempt,
            time=now,
            nonce=nonce,
            path=wanted.path,
            length=wanted.length,
            sha256=wanted.sha256,
            force=wanted.force and wanted.path is not None,
            traceparent=self._traceparent(wanted),
        )
        expires = datetime.fromtimestamp(now, UTC) + assignment.LIFETIME
        return assignment.sign(said, self.signers[DIRECTOR], expires)

    def _traceparent(self, wanted: Wanted) -> str:
        if self.trace_ids is None or not wanted.traced or wanted.rollout is None or wanted.path is None:
            return ""
        return self.trace_ids.parent(wanted.rollout, wanted.device, wanted.attempt)
