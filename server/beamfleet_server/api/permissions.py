"""Owns who may do what on the operators' API: one table, which every route must be in. Nobody can sign a bundle here.

Roles are steps: viewer < operator < publisher < admin; each one may do what those below it may. A token can be limited
further, to the operations that are its scopes. A route that is not in the table keeps the server from starting.
"""

from collections.abc import Mapping

from beamfleet_server.errors import ServerError
from beamfleet_server.store.operators import Operator

VIEWER, OPERATOR, PUBLISHER, ADMIN = ROLES = ("viewer", "operator", "publisher", "admin")

NEEDED: Mapping[str, str] = {
    "server.server": VIEWER,
    "server.health": VIEWER,
    "server.whoami": VIEWER,
    "server.config": OPERATOR,
    "metadata.newest": VIEWER,
    "metadata.versions": VIEWER,
    "metadata.products": VIEWER,
    "metadata.version": VIEWER,
    "metadata.upload": PUBLISHER,
    "metadata.upload_root": ADMIN,
    "metadata.create": ADMIN,
    "bundles.listed": VIEWER,
    "bundles.one": VIEWER,
    "bundles.upload": PUBLISHER,
    "tokens.create": OPERATOR,
    "tokens.listed": OPERATOR,
    "tokens.revoke": OPERATOR,
    "enrolments.listed": VIEWER,
    "enrolments.accept": OPERATOR,
    "enrolments.reject": OPERATOR,
    "authorities.listed": VIEWER,
    "authorities.create": ADMIN,
    "authorities.activate": ADMIN,
    "authorities.retire": ADMIN,
    "devices.listed": VIEWER,
    "devices.one": VIEWER,
    "devices.label": OPERATOR,
    "devices.command": OPERATOR,
    "devices.provision": OPERATOR,
    "devices.revoke": OPERATOR,
    "devices.accept_clone": OPERATOR,
    "devices.decommission": OPERATOR,
    "devices.replace": OPERATOR,
    "devices.delete": ADMIN,
    "devices.pin": OPERATOR,
    "devices.unpin": OPERATOR,
    "evidence.listed": VIEWER,
    "evidence.ask": OPERATOR,
    "evidence.fetch": OPERATOR,
    "evidence.delete": OPERATOR,
    "logs.stream": OPERATOR,
    "health.devices": VIEWER,
    "health.samples": VIEWER,
    "rollouts.listed": VIEWER,
    "rollouts.one": VIEWER,
    "rollouts.devices": VIEWER,
    "rollouts.changes": VIEWER,
    "rollouts.preview": VIEWER,
    "rollouts.start": OPERATOR,
    "rollouts.pause": OPERATOR,
    "rollouts.resume": OPERATOR,
    "rollouts.approve": OPERATOR,
    "rollouts.abort": OPERATOR,
    "rollouts.undo": OPERATOR,
    "rollouts.retry": OPERATOR,
    "quarantine.listed": VIEWER,
    "quarantine.lift": OPERATOR,
    "approvals.listed": VIEWER,
    "approvals.approve": OPERATOR,
    "approvals.reject": OPERATOR,
    "events.listed": VIEWER,
    "events.stream": VIEWER,
    "webhooks.listed": OPERATOR,
    "webhooks.one": OPERATOR,
    "webhooks.deliveries": OPERATOR,
    "webhooks.test": OPERATOR,
    "webhooks.redeliver": OPERATOR,
    "webhooks.create": ADMIN,
    "webhooks.rotate": ADMIN,
    "webhooks.enable": ADMIN,
    "webhooks.disable": ADMIN,
    "webhooks.delete": ADMIN,
    "expiries.listed": VIEWER,
    "sessions.begin": VIEWER,
    "sessions.current": VIEWER,
    "sessions.listed": VIEWER,
    "sessions.end": VIEWER,
    "sessions.end_current": VIEWER,
    "operators.listed": ADMIN,
    "operators.create": ADMIN,
    "operators.revoke": ADMIN,
    "audit.listed": ADMIN,
}
"""The lowest role for each operation. `metadata.upload_root` is `metadata.upload` with a root or targets in it. Of
sessions everybody has their own; an admin has everybody's."""


def allows(role: str, operation: str) -> bool:
    """True if the role may do the operation; KeyError for an operation that is not in the table."""
    return role in ROLES and ROLES.index(role) >= ROLES.index(NEEDED[operation])


def check(operator: Operator, operation: str) -> None:
    """Refuse what the operator may not do; errors `auth.forbidden`, `auth.scope`."""
    if not allows(operator.role, operation):
        what = f"{operation} needs the role {NEEDED[operation]}; {operator.name[:63]} is {operator.role}"
        raise ServerError("auth.forbidden", what, "ask an admin of this server")
    if operator.scopes and operation not in operator.scopes:
        what = f"the token of {operator.name[:63]} is limited to {', '.join(sorted(operator.scopes))[:300]}"
        raise ServerError("auth.scope", what, "ask an admin for a token with this scope")
