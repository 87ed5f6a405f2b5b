"""The operators' API, `/api/v1`: the application and what all of its routes share."""

from collections.abc import Callable, Iterable
from typing import Any

from fastapi import APIRouter, Depends, FastAPI

from beamfleet_server import __version__
from beamfleet_server.api import pages, problems
from beamfleet_server.api.authentication import Authentication
from beamfleet_server.api.development import DevelopmentMark
from beamfleet_server.api.guard import Guard, operation_of, stand
from beamfleet_server.api.limits import AddressRate, BodyLimit
from beamfleet_server.api.permissions import NEEDED
from beamfleet_server.clock import Clock
from beamfleet_server.provider import Provider
from beamfleet_server.rates import Rates
from beamfleet_server.store import Store

PREFIX = "/api/v1"
LARGEST_BODY = 8 << 20


class Operators(FastAPI):
    """An application whose description has the problem, and the role of each operation as `x-beamfleet-role`."""

    def openapi(self) -> dict[str, Any]:
        """The description; KeyError for an operation that the table of permissions does not have."""
        if not self.openapi_schema:
            described = super().openapi()
            described["components"]["schemas"]["Problem"] = problems.Problem.model_json_schema()
            for methods in described["paths"].values():
                for operation in methods.values():
                    operation["x-beamfleet-role"] = NEEDED[operation["operationId"]]
        return super().openapi()


def application(
    authentication: Authentication,
    guard: Guard,
    store: Store,
    clock: Clock,
    provider: Provider | None,
    development: Callable[[], bool],
    rates: Rates,
    routers: Iterable[APIRouter],
    streamed: Iterable[str],
) -> FastAPI:
    """The ASGI application; `streamed` are paths below the prefix that limit their bodies themselves; `rates`: how
    often one address may ask; `development`: whether the fleet's keys are made for that."""
    app = Operators(
        title="beamfleet",
        version=__version__,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        responses=problems.told(),
        generate_unique_id_function=operation_of,
    )
    problems.install(app)
    stand(app, guard)
    pages.install(app, store, authentication, clock, provider, development)
    for router in routers:
        app.include_router(router, prefix=PREFIX, dependencies=[Depends(authentication)])
    app.openapi()
    app.add_middleware(BodyLimit, limit=LARGEST_BODY, streamed=[PREFIX + path for path in streamed])
    app.add_middleware(AddressRate, rates=rates)
    app.add_middleware(DevelopmentMark, development=development)
    return app
