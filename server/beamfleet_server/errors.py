"""Owns the errors of the server and what each code is over HTTP; never logs, never raises.

BeamfleetError                 beamfleet_bundles.errors: every error a user may see
├── BundleError                beamfleet_bundles: bundles, names, trust, messages
└── ServerError                everything the server itself refuses (README.md lists the codes)
"""

from beamfleet_bundles.errors import BeamfleetError

STATUS = {
    "auth.required": 401,
    "auth.expired": 401,
    "auth.forbidden": 403,
    "auth.scope": 403,
    "auth.csrf": 403,
    "login.refused": 403,
    "login.unavailable": 503,
    "session.unknown": 404,
    "operator.exists": 409,
    "operator.unknown": 404,
    "operator.last_admin": 409,
    "request.schema": 422,
    "request.too_large": 413,
    "request.cursor": 422,
    "request.selector": 422,
    "request.not_found": 404,
    "request.method": 405,
    "request.aborted": 400,
    "request.malformed": 400,
    "request.timeout": 408,
    "request.rate": 429,
    "request.headers": 431,
    "metadata.none": 404,
    "metadata.conflict": 409,
    "metadata.incomplete": 409,
    "product.exists": 409,
    "product.unknown": 404,
    "release.unknown": 404,
    "release.quarantined": 409,
    "bundle.unknown": 404,
    "bundle.version_exists": 409,
    "bundle.unsigned": 422,
    "bundle.untrusted": 422,
    "device.unknown": 404,
    "device.exists": 409,
    "device.offline": 409,
    "device.old_agent": 409,
    "device.cloned": 403,
    "device.itself": 422,
    "device.replaced": 409,
    "device.retired": 409,
    "device.successor": 409,
    "evidence.unknown": 404,
    "evidence.waits": 409,
    "evidence.no_key": 409,
    "evidence.offset": 409,
    "evidence.too_large": 413,
    "evidence.malformed": 422,
    "certificate.unknown": 403,
    "certificate.none": 404,
    "enrolment.rejected": 403,
    "enrolment.full": 429,
    "enrolment.unknown": 404,
    "enrolment.ambiguous": 409,
    "enrolment.decided": 409,
    "authority.unknown": 404,
    "authority.active": 409,
    "authority.retired": 409,
    "authority.in_use": 409,
    "authority.too_many": 409,
    "token.wrong": 401,
    "token.unknown": 404,
    "token.used": 403,
    "token.expired": 403,
    "pki.request": 400,
    "pki.key_type": 400,
    "pki.encoding": 400,
    "pki.certificate": 403,
    "rollout.unknown": 404,
    "rollout.finished": 409,
    "rollout.no_selector": 422,
    "rollout.no_devices": 422,
    "rollout.no_target": 422,
    "rollout.needs_approval": 409,
    "rollout.no_gate": 409,
    "rollout.nothing_to_undo": 409,
    "quarantine.unknown": 404,
    "approval.unknown": 404,
    "approval.decided": 409,
    "approval.own": 403,
    "webhook.unknown": 404,
    "webhook.exists": 409,
    "webhook.too_many": 409,
    "webhook.url": 422,
    "webhook.address": 422,
    "webhook.disabled": 409,
    "webhook.no_delivery": 404,
    "stream.full": 429,
    "broker.down": 503,
    "broker.missing": 500,
    "broker.failed": 500,
    "server.port_taken": 500,
    "server.data_in_use": 500,
    "server.data_unusable": 500,
    "server.disk_full": 507,
    "server.database": 503,
    "server.database_in_use": 503,
    "server.database_unreachable": 503,
    "server.settings": 500,
    "server.internal": 500,
}
"""Every code of the server with its HTTP status. Those of `beamfleet_bundles` are 422 over HTTP unless named here."""

TITLES = {
    400: "Bad request",
    401: "Not authenticated",
    403: "Refused",
    404: "Not found",
    405: "Method not allowed",
    408: "Too slow",
    409: "Conflict",
    413: "Too large",
    422: "Refused by its content",
    429: "Too many requests",
    431: "Headers too large",
    500: "Server error",
    503: "Not available",
    507: "No space left",
}


class ServerError(BeamfleetError):
    """The server refused or could not do something; `code` is one of `STATUS`."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        if code not in STATUS:
            raise KeyError(code)
        super().__init__(code, message, hint)


def status_of(error: BeamfleetError) -> int:
    """The HTTP status under which `error` is told: that of its code, or 422 for what a bundle or name did wrong."""
    return STATUS.get(error.code, 422)
