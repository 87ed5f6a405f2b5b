"""Owns the route that makes one-time tokens for devices."""

from beamfleet_bundles.names import check_device, check_label
from fastapi import APIRouter

from beamfleet_server.api import problems
from beamfleet_server.api.authentication import new_token, token_hash
from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.schemas import NewToken, Token
from beamfleet_server.clock import Clock, rfc3339
from beamfleet_server.store import Store
from beamfleet_server.store.acts import about


def router(store: Store, clock: Clock) -> APIRouter:
    """`/tokens`."""
    routes = guarded("tokens")

    @routes.post("/tokens", status_code=201, responses=problems.told("device.exists"))
    def create(new: NewToken) -> Token:
        """Make a token with which one device can enrol once. An earlier one that was not used ends."""
        check_device(new.device)
        for key, value in new.labels.items():
            check_label(key, value)
        about(new.device)
        token, now = new_token(), clock()
        expires = now + new.expires_in_s
        store.enrolment.create_token(new.device, token_hash(token), new.labels, now, expires, replace=new.replace)
        return Token(token=token, device=new.device, expires=rfc3339(expires))

    return routes
