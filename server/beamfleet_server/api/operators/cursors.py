"""Owns the parameters that every list takes."""

from typing import Annotated

from fastapi import Path, Query

from beamfleet_server.errors import ServerError

Limit = Annotated[int, Query(ge=1, le=1000, description="most items")]
Number = Annotated[int, Path(ge=0, le=2**62)]
"""What names something by its number."""
Cursor = Annotated[str | None, Query(max_length=100, description="`next` of the page before")]


def number(cursor: str | None) -> int | None:
    """The cursor of a list that is ordered by number; error `request.cursor`."""
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 18):
        raise ServerError("request.cursor", f"{cursor!r} is no cursor of this list", "use `next` of the page before")
    return int(cursor)
