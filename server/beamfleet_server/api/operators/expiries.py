"""Owns the route about what runs out."""

from fastapi import APIRouter

from beamfleet_server.api.condition_schemas import Expiry
from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.schemas import Page
from beamfleet_server.clock import rfc3339
from beamfleet_server.expiries import Expiries


def router(expiries: Expiries) -> APIRouter:
    """`/expiries`."""
    routes = guarded("expiries")

    @routes.get("/expiries")
    def listed() -> Page[Expiry]:
        """What runs out, the next one first: metadata, certificates, revocation lists, operators' tokens."""
        return Page(
            items=[
                Expiry(
                    what=row.what,
                    state=row.state,
                    issued=rfc3339(row.issued),
                    half_life=rfc3339(row.half_life),
                    expires=rfc3339(row.expires),
                    mend=row.mend,
                )
                for row in expiries.all()
            ]
        )

    return routes
