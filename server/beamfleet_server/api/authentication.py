"""Owns who an operator is: a bearer token of 256 random bits, of which the database has only the SHA-256."""

import hashlib
import secrets
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from beamfleet_server.clock import Clock
from beamfleet_server.errors import ServerError
from beamfleet_server.store.operators import Operator, Operators

_bearer = HTTPBearer(auto_error=False, description="the operator's token")


def new_token() -> str:
    """A token of 256 random bits."""
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


class Authentication:
    """A dependency of every operators' route; gives the operator."""

    def __init__(self, operators: Operators, clock: Clock) -> None:
        self._operators = operators
        self._clock = clock

    def __call__(self, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> Operator:
        """The operator whose token came; errors `auth.required`, `auth.expired`."""
        operator = self._operators.find(token_hash(given.credentials)) if given else None
        if operator is None:
            what = "this token is not known" if given else "this needs a token"
            raise ServerError("auth.required", what, "log in: beamfleet login URL --token-file FILE --ca FILE")
        if operator.expires is not None and operator.expires <= self._clock():
            raise ServerError("auth.expired", f"the token of {operator.name} has expired", "ask for a new one")
        return operator
