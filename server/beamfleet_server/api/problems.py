"""Owns how an error is told over HTTP: application/problem+json (RFC 9457) with our code and hint."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from beamfleet_bundles.errors import BeamfleetError
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from beamfleet_server.errors import TITLES, status_of

MEDIA_TYPE = "application/problem+json"
HTTP_CODES = {
    400: "request.malformed",
    404: "request.not_found",
    405: "request.method",
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


RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {"model": Problem, "description": "What went wrong", "content": {MEDIA_TYPE: {}}}
}


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


async def _ours(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, BeamfleetError)  # noqa: S101 (registered for it)
    status = status_of(error)
    headers = {"WWW-Authenticate": CHALLENGES[error.code.partition(".")[0]]} if status == 401 else {}
    return problem(status, error.code, error.message, error.hint, headers)


async def _schema(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 (registered for it)
    found = [f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()[:5]]
    return problem(422, "request.schema", "; ".join(found)[:500], "see /api/v1/openapi.json")


async def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 (registered for it)
    code = HTTP_CODES.get(error.status_code, "request.malformed")
    return problem(error.status_code, code, str(error.detail), headers=error.headers)


async def _unexpected(_: Request, __: Exception) -> JSONResponse:
    return problem(500, "server.internal", "the server has made a mistake", "its log says more")
