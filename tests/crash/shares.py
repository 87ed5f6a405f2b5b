"""Owns doing many things in a few processes: each takes its share, in a place of its own, and tells what it found.

The processes are forks, not threads: the tracer waits for all children of its process.
"""

import json
import os
import traceback
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def shared(count: int, items: Sequence[T], work: Callable[[int, T], str]) -> list[str]:
    """What `work(number of the process, item)` found, all over; it gives an empty text when all is well."""
    children = []
    for number in range(count):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _take(number, items[number::count], work, writer)
        os.close(writer)
        children.append((child, reader))
    found: list[str] = []
    for child, reader in children:
        with os.fdopen(reader, "rb") as pipe:
            data = pipe.read()
        _, status = os.waitpid(child, 0)
        found += json.loads(data) if data else [f"a process ended with {os.waitstatus_to_exitcode(status)}"]
    return found


def _take(number: int, items: Sequence[T], work: Callable[[int, T], str], writer: int) -> None:
    try:
        found: list[str] = []
        for item in items:
            try:
                found.append(work(number, item))
            except Exception:  # noqa: BLE001 - it goes to the parent, which fails
                found.append(traceback.format_exc())
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(json.dumps([text for text in found if text]).encode())
    finally:
        os._exit(0)
