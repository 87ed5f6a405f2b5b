"""Owns what happens around every route: who asks is found out before anything of the body is read, what they do is in
the audit chain, whatever comes of it.

    admit (identity, rate, role, CSRF) -> the route -> an entry, if it was a change or a refusal

A change writes its entry in its own transaction (`store.acts`); the rest is written here. Refusals are bounded: of
one address or operator only so many a minute are kept one by one, the others as a number.
"""

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute

from beamfleet_server.api.problems import code_of
from beamfleet_server.audit import OK
from beamfleet_server.errors import ServerError
from beamfleet_server.rates import Rates
from beamfleet_server.store.acts import ACTING, Act
from beamfleet_server.store.audit import Audit

Admit = Callable[[str, Request, Act], Awaitable[None]]
"""Lets a request to an operation pass, and fills in the act's `actor`; or raises."""
Handler = Callable[[Request], Coroutine[Any, Any, Response]]

SAFE = frozenset({"GET", "HEAD"})
ALWAYS_KEPT = frozenset({"auth", "certificate", "token"})
"""Refusals of reading that are kept as well, by the first part of their code."""
REFUSALS_PER_S, REFUSALS_AT_ONCE = 0.5, 60

_log = structlog.get_logger(__name__)


class Guard:
    """One application's guard, at `app.state.guard`."""

    def __init__(self, admit: Admit, audit: Audit) -> None:
        self._admit = admit
        self._audit = audit
        self._kept = Rates(REFUSALS_PER_S, REFUSALS_AT_ONCE)
        self._unkept: Counter[str] = Counter()

    async def answer(self, operation: str, request: Request, handle: Handler) -> Response:
        """The answer of a route, or its error, with the act in the audit chain."""
        named = "/".join(str(value) for value in request.path_params.values())
        act = request.state.act = Act("", address_of(request), operation, named)
        try:
            await self._admit(operation, request, act)
            ACTING.set(act)  # for the rest of this request's task and the threads that work for it
            response = await handle(request)
        except Exception as error:
            ACTING.set(None)
            await self._refused(act, code_of(error), request.method)
            raise
        ACTING.set(None)
        if request.method not in SAFE and not act.recorded:
            await asyncio.to_thread(self._audit.append, act, OK)
        return response

    async def _refused(self, act: Act, code: str, method: str) -> None:
        if method in SAFE and code.partition(".")[0] not in ALWAYS_KEPT:
            return
        who = act.actor or act.address
        if self._kept.take(who):
            self._unkept[who] += 1
            return
        if missed := self._unkept.pop(who, 0):
            act.detail = f"{missed} refusals before this one were not kept. {act.detail}".rstrip()
        try:
            await asyncio.to_thread(self._audit.append, act, code)
        except ServerError as error:  # the caller hears of its own refusal, not of this
            _log.error("a refusal cannot be kept in the audit", code=error.code, detail=error.message)


class Guarded(APIRoute):
    """A route behind `app.state.guard`. Its operation is `TAG.NAME`, and its id in the OpenAPI description."""

    def get_route_handler(self) -> Handler:
        """The handler, guarded."""
        handle = super().get_route_handler()
        operation = operation_of(self)

        async def guarded(request: Request) -> Response:
            guard: Guard = request.app.state.guard
            return await guard.answer(operation, request, handle)

        return guarded


def router(tag: str, kind: type[Guarded] = Guarded) -> APIRouter:
    """A router whose routes are guarded."""
    return APIRouter(tags=[tag], route_class=kind)


def stand(app: FastAPI, guard: Guard) -> None:
    """Put the guard before the routes of an application, also before those that it adds itself."""
    app.state.guard = guard
    app.router.route_class = Guarded


def operation_of(route: APIRoute) -> str:
    """`TAG.NAME`, the name under which a route is known to permissions, audit and OpenAPI."""
    return f"{route.tags[0] if route.tags else 'server'}.{route.name}"


def address_of(request: Request) -> str:
    """Where a request comes from; no header is believed."""
    return request.client.host if request.client else ""


def network_of(address: str) -> str:
    """The address that is counted: of IPv6 the /64, which is one subscriber's."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 6 and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network(f"{address}/64", strict=False).network_address)
    return address
