"""Owns the answer to a scrape: `GET /metrics` and nothing else, on plain HTTP, in the text format 0.0.4.

One look at the server at a time, kept for some seconds, so that many scrapes cost as much as one; who would wait too
long is sent away."""

import asyncio
import gzip
from collections.abc import Callable, Iterable

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from beamfleet_server.api.limits import BodyLimit
from beamfleet_server.api.problems import TooManyError, problem, response_to
from beamfleet_server.metrics.families import Readings, families
from beamfleet_server.metrics.readings import FRESH_S, Kept
from beamfleet_server.refusals import request_refused

PATH = "/metrics"
METHODS = ("GET", "HEAD")
MOST_WAITING = 20
"""Scrapes that wait at once."""
PATIENCE_S = 9.0
"""A little less than Prometheus waits unless it is told otherwise."""
LARGEST_BODY = 1024
WORTH_PACKING = 1024

_log = structlog.get_logger(__name__)


class Metrics:
    """The application; `read` gives what there is to show, from a thread that is not the event loop's."""

    def __init__(self, read: Callable[[], Readings]) -> None:
        self._kept = Kept(lambda: tuple(families(read())), FRESH_S)
        self._look: asyncio.Task[tuple[Metric, ...]] | None = None
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        answer = await self._answer(scope)
        await answer(scope, receive, send)

    async def _answer(self, scope: Scope) -> Response:
        if scope["path"] != PATH:
            request_refused(scope, 404, "request.not_found")
            return problem(404, "request.not_found", f"there is only {PATH}")
        if scope["method"] not in METHODS:
            request_refused(scope, 405, "request.method")
            return problem(405, "request.method", "metrics can only be read", headers={"Allow": ", ".join(METHODS)})
        if self._waiting >= MOST_WAITING:
            return response_to(TooManyError(FRESH_S))
        self._waiting += 1
        try:
            async with asyncio.timeout(PATIENCE_S):
                shown = await self._shown()
            encodings = dict(scope["headers"]).get(b"accept-encoding", b"").decode("latin-1")
            return await asyncio.to_thread(_written, shown, encodings)
        except TimeoutError:
            return response_to(TooManyError(PATIENCE_S))
        except Exception:  # noqa: BLE001 (the top of a request: it logs, and answers)
            _log.exception("metrics cannot be shown")
            return problem(500, "server.internal", "metrics cannot be shown; the server's log says more")
        finally:
            self._waiting -= 1

    async def _shown(self) -> tuple[Metric, ...]:
        """The newest families; whoever comes while somebody looks waits for the same."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(asyncio.to_thread(self._kept))
        return await asyncio.shield(self._look)


def application(read: Callable[[], Readings]) -> ASGIApp:
    """The listener's application."""
    return BodyLimit(Metrics(read), limit=LARGEST_BODY)


class _Shown(Collector):
    def __init__(self, shown: Iterable[Metric]) -> None:
        self._shown = shown

    def collect(self) -> Iterable[Metric]:
        return self._shown


def _written(shown: Iterable[Metric], encodings: str) -> Response:
    """The families as text, packed if the client can unpack it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Shown(shown))
    body = generate_latest(registry)
    headers = {"Content-Type": CONTENT_TYPE_PLAIN_0_0_4, "Cache-Control": "no-store", "Vary": "Accept-Encoding"}
    if len(body) >= WORTH_PACKING and "gzip" in [word.split(";")[0].strip().lower() for word in encodings.split(",")]:
        body = gzip.compress(body, compresslevel=3, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(body, headers=headers)
