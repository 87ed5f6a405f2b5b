"""Owns the way of the device's archive to its operators: made, sealed for the keys that targets signs, handed over.

    refresh metadata -> recipients -> archive, in memory -> sealed -> PUT /evidence, piece after piece

The server takes what it has asked for, and can read nothing of it. A line that breaks costs a piece: the worker asks
how much has arrived and goes on there, after a pause that grows, and gives up when nothing arrives any more.
"""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from beamfleet_bundles import sealing

from beamfleet_agent import client, diagnosis
from beamfleet_agent.course import retry_after
from beamfleet_agent.errors import AgentError
from beamfleet_agent.worker.centre import Centre
from beamfleet_agent.worker.job import Job
from beamfleet_agent.worker.transport import Transport

PLACE = "/evidence"
PIECE = 1 << 17
"""Bytes in one request: a line of 2.2 kB/s brings it within the server's patience."""
TRIES = 8
"""In a row, without a byte that arrives."""
MAX_ANSWER = 4_096
MENDING = frozenset({"worker.network", "worker.server", "evidence.offset"})


def diagnose(job: Job, pause: Callable[[float], None] = time.sleep) -> dict[str, Any]:
    """{"bytes": what was handed over}. Errors `evidence.no_key`, `trust.*`, the server's own."""
    centre, word, device = Centre(job, datetime.now(UTC)), str(job.words["id"]), job.settings.device
    recipients = centre.recipients
    if not recipients:
        hint = "beamfleet keys evidence create NAME"
        raise AgentError("evidence.no_key", "nobody is named who may open this device's evidence", hint)
    status = client.ask(job.paths, {"do": "status"}, lambda _: None) or {}
    packed = diagnosis.archive(job.paths, status)
    sealed = b"".join(sealing.seal(packed, device, word, recipients))
    del packed
    _hand_over(job, centre.transport, word, sealed, pause)
    return {"bytes": len(sealed)}


def _hand_over(job: Job, transport: Transport, word: str, sealed: bytes, pause: Callable[[float], None]) -> None:
    total, arrived, failures = len(sealed), 0, 0
    steps = TRIES + 2 * (1 + total // PIECE)  # a server that keeps losing what it has is left alone
    while arrived < total:
        steps -= 1
        try:
            reached = _step(transport, word, sealed, arrived, doubtful=failures > 0)
        except AgentError as error:
            if error.code not in MENDING or failures + 1 >= TRIES or not steps:
                raise
            reached = 0
        if reached > arrived:
            arrived, failures = reached, 0
        else:
            failures += 1
            if failures >= TRIES or not steps:
                raise AgentError("worker.server", f"the server keeps nothing of {word}", "ask for it again")
            pause(retry_after(failures, job.settings.device))
        job.progress(arrived, total)


def _step(transport: Transport, word: str, sealed: bytes, arrived: int, *, doubtful: bool) -> int:
    """How much has arrived after the next piece; if that is doubtful the server is asked before."""
    total = len(sealed)
    if doubtful:
        arrived = _arrived(transport.read(PLACE, MAX_ANSWER, id=word), total)
        if arrived == total:
            return total
    asked = {"id": word, "offset": str(arrived), "total": str(total)}
    return _arrived(transport.put(PLACE, sealed[arrived : arrived + PIECE], MAX_ANSWER, **asked), total)


def _arrived(answer: bytes, total: int) -> int:
    """How many bytes the server has; error `worker.refused` for an answer that is none."""
    try:
        arrived = json.loads(answer)["received"]
    except (ValueError, KeyError, TypeError, RecursionError):
        arrived = None
    if type(arrived) is not int or not 0 <= arrived <= total:
        raise AgentError("worker.refused", "the server does not say how much of the evidence it has")
    return arrived
