"""Owns how an error is told over HTTP: application/problem+json (RFC 9457) with our code and hint."""

import math
from collections import defaultdict
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from beamfleet_bundles.errors import BeamfleetError
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from beamfleet_server.errors import STATUS, TITLES, ServerError, status_of
from beamfleet_server.refusals import request_refused

MEDIA_TYPE = "application/problem+json"
HTTP_CODES = {
    400: "request.malformed",
    404: "request.not_found",
    405: "request.method",
    408: "request.timeout",
    413: "request.too_large",
}
CHALLENGES = {"auth": 'Bearer realm="beamfleet"', "token": 'Basic realm="beamfleet enrolment"'}


class Problem(BaseModel):
    """An error as it travels."""

    model_config = ConfigDict(extra="forbid")

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    hint: str = ""


class TooManyError(ServerError):
    """Somebody asks too often; `retry_after_s` in whole seconds."""

    def __init__(self, wait_s: float) -> None:
        self.retry_after_s = max(1, math.ceil(wait_s))
        super().__init__("request.rate", "too many requests", f"try again in {self.retry_after_s} s")


EVERYWHERE = (
    "auth.required",
    "auth.expired",
    "auth.forbidden",
    "auth.scope",
    "auth.csrf",
    "request.malformed",
    "request.timeout",
    "request.too_large",
    "request.schema",
    "request.rate",
    "request.headers",
    "server.internal",
    "server.database",
)
"""What every route of the operators' API may answer."""


def told(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The description of a route's own errors, for `responses`; with those of every route if none are named."""
    by_status: dict[int | str, list[str]] = defaultdict(list)
    for code in codes or EVERYWHERE:
        by_status[STATUS[code]].append(f"`{code}`")
    every = {STATUS[code]: [f"`{each}`" for each in EVERYWHERE if STATUS[each] == STATUS[code]] for code in EVERYWHERE}
    reference = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {
            "description": ", ".join(dict.fromkeys([*named, *every.get(int(status), [])])),
            "content": {MEDIA_TYPE: reference},
        }
        for status, named in by_status.items()
    }


def code_of(error: Exception) -> str:
    """The code under which an error is told."""
    match error:
        case BeamfleetError():
            return error.code
        case RequestValidationError():
            return "request.schema"
        case HTTPException():
            return HTTP_CODES.get(error.status_code, "request.malformed")
        case _:
            return "server.internal"


def problem(
    status: int, code: str, detail: str, hint: str = "", headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The response that tells an error."""
    title = TITLES.get(status) or HTTPStatus(status).phrase
    body = Problem(title=title, status=status, detail=detail, code=code, hint=hint).model_dump()
    return JSONResponse(body, status, dict(headers or {}), MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Tell every error of `app` as a problem."""
    app.add_exception_handler(BeamfleetError, _ours)
    app.add_exception_handler(RequestValidationError, _schema)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


async def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, BeamfleetError)  # noqa: S101 (registered for it)
    request_refused(request.scope, status_of(error), error.code)
    return response_to(error)


def response_to(error: BeamfleetError) -> JSONResponse:
    """The response that tells one of our errors."""
    status = status_of(error)
    headers = {"WWW-Authenticate": CHALLENGES[error.code.partition(".")[0]]} if status == 401 else {}
    if isinstance(error, TooManyError):
        headers["Retry-After"] = str(error.retry_after_s)
    return problem(status, error.code, error.message, error.hint, headers)


async def _schema(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 (registered for it)
    request_refused(request.scope, 422, "request.schema")
    found = [f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()[:5]]
    return problem(422, "request.schema", "; ".join(found)[:500], "see /api/v1/openapi.json")


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 (registered for it)
    code = HTTP_CODES.get(error.status_code, "request.malformed")
    request_refused(request.scope, error.status_code, code)
    return problem(error.status_code, code, str(error.detail), headers=error.headers)


async def _unexpected(_: Request, __: Exception) -> JSONResponse:
    return problem(500, "server.internal", "the server has made a mistake", "its log says more")
