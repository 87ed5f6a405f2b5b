"""The operators' API, `/api/v1`: the application and what all of its routes share."""

from collections.abc import Iterable

from fastapi import APIRouter, Depends, FastAPI

from beamfleet_server import __version__
from beamfleet_server.api import problems
from beamfleet_server.api.authentication import Authentication
from beamfleet_server.api.limits import BodyLimit

PREFIX = "/api/v1"
LARGEST_BODY = 8 << 20


def application(authentication: Authentication, routers: Iterable[APIRouter], streamed: Iterable[str]) -> FastAPI:
    """The ASGI application; `streamed` are paths below the prefix that limit their bodies themselves."""
    app = FastAPI(
        title="beamfleet",
        version=__version__,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        responses=problems.RESPONSES,
    )
    problems.install(app)
    for router in routers:
        app.include_router(router, prefix=PREFIX, dependencies=[Depends(authentication)])
    app.add_middleware(BodyLimit, limit=LARGEST_BODY, streamed=[PREFIX + path for path in streamed])
    return app
