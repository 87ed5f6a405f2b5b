"""Owns the routes of operators: who they are, making one, ending one."""

from collections.abc import Collection
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from beamfleet_server.api import problems
from beamfleet_server.api.authentication import Authentication, new_token, token_hash
from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.permissions import NEEDED, allows
from beamfleet_server.api.schemas import CreatedOperator, KnownOperator, NewOperator, Page
from beamfleet_server.clock import Clock, rfc3339
from beamfleet_server.errors import ServerError
from beamfleet_server.store import Store
from beamfleet_server.store.acts import about
from beamfleet_server.store.operators import KnownOperator as KeptOperator
from beamfleet_server.store.operators import Operator


def router(store: Store, authentication: Authentication, clock: Clock) -> APIRouter:
    """`/operators`."""
    routes = guarded("operators")
    Admitted = Annotated[Operator, Depends(authentication)]  # noqa: N806 (a type)

    @routes.get("/operators")
    def listed() -> Page[KnownOperator]:
        """The operators by name."""
        return Page(items=[KnownOperator(**_described(each)) for each in store.operators.all()])

    @routes.post("/operators", status_code=201, responses=problems.told("operator.exists"))
    def create(new: NewOperator, operator: Admitted) -> CreatedOperator:
        """Make an operator and its token, which is shown this once. `scopes` limit it to operations of its role."""
        about(new.name, f"{new.role} {' '.join(new.scopes)}".rstrip())
        _check_scopes(new.role, new.scopes)
        token, now = new_token(), clock()
        expires = now + new.expires_in_s
        store.operators.create(new.name, new.role, token_hash(token), new.scopes, operator.name, now, expires)
        made = KeptOperator(new.name, new.role, tuple(sorted(new.scopes)), now, operator.name, expires)
        return CreatedOperator(**_described(made), token=token)

    @routes.delete("/operators/{name}", responses=problems.told("operator.unknown", "operator.last_admin"))
    def revoke(name: str) -> KnownOperator:
        """End an operator: the token and all web sessions that it began stop at once."""
        return KnownOperator(**_described(store.operators.revoke(name, clock())))

    return routes


def _check_scopes(role: str, scopes: Collection[str]) -> None:
    for scope in scopes:
        if scope not in NEEDED or not allows(role, scope):
            what = f"{scope[:64]!r} is no operation that the role {role} may do"
            raise ServerError("request.schema", what, "API.md has the operations of each role")


def _described(operator: KeptOperator) -> dict[str, Any]:
    return {
        "name": operator.name,
        "role": operator.role,
        "scopes": list(operator.scopes),
        "created": rfc3339(operator.created),
        "created_by": operator.created_by,
        "expires": rfc3339(operator.expires),
    }
