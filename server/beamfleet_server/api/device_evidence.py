"""Owns how devices hand in evidence: piece by piece, what an operator has asked for and nothing else.

PUT /evidence?id=WORD&offset=N&total=N    the next piece, at most 128 KiB; the answer says how much has come
GET /evidence?id=WORD                     how much has come, for who has lost count
"""

import asyncio
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, FastAPI, Query, Request
from pydantic import BaseModel

from beamfleet_server.clock import Clock
from beamfleet_server.evidence import MAX_BYTES, EvidenceFiles
from beamfleet_server.store.acts import about

PLACE = "/evidence"
LARGEST_PIECE = 1 << 17

Word = Annotated[str, Query(alias="id", pattern="^[0-9a-f]{16}$")]
Count = Annotated[int, Query(ge=0, le=MAX_BYTES)]
Total = Annotated[int, Query(ge=1, le=2**40)]


class Received(BaseModel):
    """How much of the evidence has come."""

    received: int


def take_evidence(app: FastAPI, files: EvidenceFiles, identified: Callable[[Request], str], clock: Clock) -> None:
    """Add the routes to the devices' application."""

    @app.put(PLACE, tags=["device"])
    async def put_evidence(
        request: Request, device: Annotated[str, Depends(identified)], word: Word, offset: Count, total: Total
    ) -> Received:
        """Take a piece. The last one is an entry in the audit, the others are not."""
        act = request.state.act
        act.target, act.detail = device, f"evidence {word}"
        piece = await request.body()
        held = await asyncio.to_thread(files.take, device, word, offset, total, piece, clock())
        act.detail = f"evidence {word}, {held.bytes} bytes"
        act.recorded = held.state != "complete" or offset + len(piece) != total
        return Received(received=held.bytes)

    @app.get(PLACE, tags=["device"])
    def got_evidence(device: Annotated[str, Depends(identified)], word: Word) -> Received:
        """How much has come."""
        about(device)
        return Received(received=files.find(device, word).bytes)
