"""Owns enrolment: makes the device's key here, asks for a certificate with the one-time token (EST), keeps both.

Key and certificate are durable before they are used, and every step looks at what is there already, so the whole may be
ended at any line and done again. The key never leaves the device; the token goes when the certificate is kept.
"""

from pathlib import Path
from typing import Any

from beamfleet_bundles import durable, pki
from cryptography.hazmat.primitives.serialization import Encoding

from beamfleet_agent.errors import AgentError
from beamfleet_agent.worker.job import Job
from beamfleet_agent.worker.transport import Transport

ENROL = "/.well-known/est/simpleenroll"


def enrol(job: Job) -> dict[str, Any]:
    """{"name", "serial", "not_after"} of the certificate that is now there. Errors `enrol.*` and the server's own."""
    paths, device, server = job.paths, job.settings.device, job.settings.server
    if server is None:
        raise AgentError("enrol.no_server", "this device knows no server", "give agent.toml a [server]")
    authority = pki.load_certificate(Path(paths.ca).read_bytes())
    Path(paths.identity).mkdir(mode=0o700, exist_ok=True)
    key_path, cert_path, token_path = Path(paths.key), Path(paths.cert), Path(paths.token)
    key = pki.load_key(key_path) if key_path.exists() else pki.create_key(key_path)
    if not cert_path.exists():
        try:
            token = token_path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            hint = f"make one with `beamfleet token create {device}` and write it to {token_path}"
            raise AgentError("enrol.no_token", "this device has no enrolment token", hint) from error
        body = pki.encode_body(pki.make_request(key, device))
        transport = Transport(server.enrol, paths.ca)
        try:
            answer = transport.post(ENROL, body, "application/pkcs10", pki.MAX_RESPONSE, (device, token))
        except FileNotFoundError as error:
            hint = "check server.enrol in agent.toml"
            raise AgentError("enrol.no_service", f"{server.enrol} does not enrol devices", hint) from error
        issued = pki.unpack_certificates(pki.decode_body(answer, pki.MAX_RESPONSE))[0]
        pki.check_issued(issued, key, device, authority)
        durable.replace(cert_path, issued.public_bytes(Encoding.PEM), mode=0o644)
    certificate = pki.load_certificate(cert_path.read_bytes())
    facts = pki.check_issued(certificate, key, device, authority)
    token_path.unlink(missing_ok=True)
    return {"name": facts.name, "serial": facts.serial, "not_after": facts.not_after}
