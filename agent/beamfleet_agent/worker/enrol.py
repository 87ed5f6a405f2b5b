"""Owns enrolment: makes the device's key here, asks for a certificate with the one-time token (EST), keeps both.

Without a token the server may know other ways: somebody there compares the fingerprint of the key and accepts it, and
until then it says when to ask again. Key and certificate are durable before they are used, and every step looks at what
is there already, so the whole may be ended at any line and done again. The key never leaves the device; the token goes
when the certificate is kept.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from beamfleet_bundles import pki
from cryptography.hazmat.primitives.asymmetric import ec

from beamfleet_agent import bearings
from beamfleet_agent.errors import AgentError
from beamfleet_agent.worker import server
from beamfleet_agent.worker.identity import Identity, Pair
from beamfleet_agent.worker.job import Job
from beamfleet_agent.worker.rescue import rescued
from beamfleet_agent.worker.transport import LaterError

ENROL = "/.well-known/est/simpleenroll"


@rescued
def enrol(job: Job) -> dict[str, Any]:
    """{"name", "serial", "not_after"} of the certificate that is now there. Errors `enrol.*` and the server's own."""
    places, device = server.known(job), job.settings.device
    identity = Identity(job.paths, device)
    identity.tidy()
    identity.adopt()
    pair = identity.current()
    if pair is None:
        authorities = pki.load_certificates(Path(bearings.authorities(job.paths)).read_bytes())
        key = identity.first_key()
        try:
            answer = _asked(job, key)
        except FileNotFoundError as error:
            hint = "check server.enrol in agent.toml"
            raise AgentError("enrol.no_service", f"{places[0].enrol} does not enrol devices", hint) from error
        pair = Pair(pki.unpack_certificates(pki.decode_body(answer, pki.MAX_RESPONSE))[0], key)
        pki.check_issued(pair.certificate, key, device, authorities)
        identity.keep(pair)
    Path(job.paths.token).unlink(missing_ok=True)
    return {"name": pair.facts.name, "serial": pair.facts.serial, "not_after": pair.facts.not_after}


def _asked(job: Job, key: ec.EllipticCurvePrivateKey) -> bytes:
    device, body = job.settings.device, pki.encode_body(pki.make_request(key, job.settings.device))
    token = _token(Path(job.paths.token))
    transport = server.enrolment_listener(job, datetime.now(UTC))
    try:
        auth = (device, token) if token else None
        return transport.post(ENROL, body, "application/pkcs10", pki.MAX_RESPONSE, auth)
    except AgentError as error:
        if isinstance(error, LaterError) and error.code == "enrol.pending":
            said = f"the server waits until somebody accepts this device's key {pki.fingerprint(key.public_key())}"
            hint = f"compare the fingerprint, then `beamfleet device accept {device}`"
            raise LaterError(error.code, said, hint, error.after_s) from error
        if error.code == "token.wrong" and not token:
            hint = f"make one with `beamfleet token create {device}` and write it to {job.paths.token}"
            raise AgentError("enrol.no_token", "this device has no enrolment token", hint) from error
        raise


def _token(path: Path) -> str:
    """The token, empty if there is none that could be one."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
