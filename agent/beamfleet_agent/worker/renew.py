"""Owns the renewal of the device's certificate, before it runs out or after: new key, certificate, test, switch.

    due -> key in a second place -> simplereenroll with the pair in use -> next pair, durable
    -> a real request with it on the devices' listener -> one rename: it is the pair in use; the one before is kept

It is due after two thirds of the certificate's life (and up to a twentieth more, so that a fleet that was made in one
day does not come at once), when its authority is none of those that are trusted now, once for each new list of
authorities of which its own is not the first, and when the server no longer takes it. One that has run out can still be
renewed, and does nothing else. `identity` tells how far it got; it may be ended at any line and done again: an answer
that was lost is asked for again with the same key.

The pair before is kept until the new one was used from another boot, or for a week, and is used again when the server
takes it but not the new one, as after a restored backup.
"""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from beamfleet_bundles import clock, pki
from beamfleet_bundles.errors import BeamfleetError

from beamfleet_agent import bearings
from beamfleet_agent.errors import AgentError
from beamfleet_agent.reports import machine
from beamfleet_agent.worker import server
from beamfleet_agent.worker.identity import Identity, Pair, required
from beamfleet_agent.worker.job import Job
from beamfleet_agent.worker.rescue import rescued
from beamfleet_agent.worker.transport import LaterError, RefusedError, Transport, UntrustedError

RENEW = "/.well-known/est/simplereenroll"
TEST, MAX_TEST = "/metadata/timestamp.json", 16_384
LOOK_EVERY_S = 86_400
FAILED_EARLY_S = 3_600
"""When to try again while the certificate is good for a day or more."""

_log = structlog.get_logger(__name__)


def renew(job: Job) -> dict[str, Any]:
    """{"switched", "serial", "not_after", "again_s": when to look again}. Errors `renew.*`, `enrol.*`, the server's.

    Words of the job: `used`, whether the pair in use has been used; `refused`, whether the server did not take it.
    """
    try:
        return _renewed(job)
    except BeamfleetError as error:
        if isinstance(error, LaterError) or _left_s(job, datetime.now(UTC)) < LOOK_EVERY_S:
            raise
        raise LaterError(error.code, error.message, error.hint, FAILED_EARLY_S) from error


@rescued
def _renewed(job: Job) -> dict[str, Any]:
    now = datetime.now(UTC)
    identity = Identity(job.paths, job.settings.device)
    identity.tidy()
    pair = required(identity.current(), job.settings.device)
    refused = bool(job.words.get("refused")) and not _takes(job, now, job.paths.pair)
    if refused and _went_back(job, now, identity):
        return _answer(required(identity.current(), job.settings.device), now, switched=True)
    if job.words.get("used") and not refused:
        identity.settle(machine(), now.timestamp())
    trusted = Path(bearings.authorities(job.paths)).read_bytes()
    tag, authorities = hashlib.sha256(trusted).hexdigest(), pki.load_certificates(trusted)
    moves = not pki.is_issued_by(pair.certificate, authorities[0])
    lost = moves and not any(pki.is_issued_by(pair.certificate, each) for each in authorities)
    elsewhere = moves and (not identity.has_tried(tag) or _age(pair, _time(job, now)) > 0.1)
    coming = identity.next()
    if not (coming or refused or lost or elsewhere or _due(pair) <= _time(job, now)):
        return _answer(pair, now, switched=False)
    if coming is None:
        key = identity.next_key()
        coming = Pair(_asked(job, now, key), key)
        pki.check_issued(coming.certificate, key, job.settings.device, authorities)
        identity.receive(coming)
    if not _takes(job, now, job.paths.next_pair):
        identity.drop_next()
        hint = "it goes on with the one that it has, and asks again later"
        raise AgentError("renew.refused", "the server does not take the certificate that it has just issued", hint)
    identity.switch(machine())
    if not pki.is_issued_by(coming.certificate, authorities[0]):
        identity.note_tried(tag)
    _log.info("certificate renewed", serial=coming.facts.serial, before=pair.facts.serial)
    return _answer(coming, now, switched=True)


def _asked(job: Job, now: datetime, key: Any) -> Any:
    """The certificate that the server issues for `key`, in the name of the pair in use.

    Where nobody gets through to the enrolment listener the devices' own renews as well, while the pair is good.
    """
    body = pki.encode_body(pki.make_request(key, job.settings.device))
    try:
        answer = _post(server.enrolment_listener(job, now, job.paths.pair), body)
    except FileNotFoundError as error:
        raise AgentError("enrol.no_service", f"the server does not renew certificates: {error}") from error
    except UntrustedError:
        raise
    except AgentError as error:
        if error.code != "worker.network":
            raise
        try:
            answer = _post(server.devices_listener(job, now), body)
        except (AgentError, FileNotFoundError) as other:
            _log.warning("no renewal on the devices' listener either", detail=str(other))
            raise error from None
    return pki.unpack_certificates(pki.decode_body(answer, pki.MAX_RESPONSE))[0]


def _post(transport: Transport, body: bytes) -> bytes:
    return transport.post(RENEW, body, "application/pkcs10", pki.MAX_RESPONSE)


def _takes(job: Job, now: datetime, pair: str) -> bool:
    """Whether the devices' listener takes the pair in this file; what keeps us from knowing is an error."""
    try:
        server.devices_listener(job, now, pair).read(TEST, MAX_TEST)
    except FileNotFoundError:
        return True  # it looked for the file, so it knew us
    except RefusedError:
        return False
    except AgentError as error:
        if not error.code.startswith("certificate."):
            raise
        return False
    return True


def _went_back(job: Job, now: datetime, identity: Identity) -> bool:
    """Whether the pair before is in use again, since the server takes it."""
    for old in identity.olds():
        if identity.is_good(old) and _takes(job, now, str(old)):
            _log.warning("certificate refused", detail="the one before is used again")
            identity.go_back(old)
            return True
    return False


def _answer(pair: Pair, now: datetime, *, switched: bool) -> dict[str, Any]:
    left = _due(pair) - now.timestamp()
    again_s = min(left, LOOK_EVERY_S) if left > 0 else LOOK_EVERY_S  # renewed and due: the clock is wrong
    return {"switched": switched, "serial": pair.facts.serial, "not_after": pair.facts.not_after, "again_s": again_s}


def _due(pair: Pair) -> float:
    """Unix second at which it is time."""
    facts = pair.facts
    life = facts.not_after - facts.not_before
    return facts.not_before + life * (2 / 3 + int(facts.serial, 16) % 1000 / 20_000)


def _age(pair: Pair, time: float) -> float:
    """The part of its life that has passed."""
    facts = pair.facts
    return (time - facts.not_before) / max(1, facts.not_after - facts.not_before)


def _time(job: Job, now: datetime) -> float:
    signed = clock.SignedTime.load(Path(job.paths.trust))
    return clock.reference_time(now, clock.BUILD_TIME, signed.time).timestamp()


def _left_s(job: Job, now: datetime) -> float:
    """How long the pair in use is good for; 0 if there is none that can be read."""
    try:
        pair = Identity(job.paths, job.settings.device).current()
    except (BeamfleetError, OSError):
        return 0
    return pair.facts.not_after - _time(job, now) if pair else 0
