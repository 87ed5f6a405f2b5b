"""Owns the resident agent's log: one JSON object a line on standard error, with the field names of structlog.

`event` is a constant phrase, facts are key-values, `timestamp` is UTC. The worker logs the same fields by structlog.
"""

import json
import os
import time


class Log:
    """Writes lines to `descriptor`; a full pipe or disk never stops the agent."""

    def __init__(self, descriptor: int = 2, **facts: object) -> None:
        self._descriptor = descriptor
        self._facts = facts

    def follow(self, trace_id: str) -> None:
        """Say in every line from now on that it belongs to this trace; empty: to none."""
        self._facts.pop("trace_id", None)
        if trace_id:
            self._facts["trace_id"] = trace_id

    def info(self, event: str, **facts: object) -> None:
        """Something that an operator wants to follow."""
        self._write("info", event, facts)

    def warning(self, event: str, **facts: object) -> None:
        """Something that mends itself."""
        self._write("warning", event, facts)

    def error(self, event: str, **facts: object) -> None:
        """Something that somebody must look at."""
        self._write("error", event, facts)

    def _write(self, level: str, event: str, facts: dict[str, object]) -> None:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06d}Z"
        line = {**self._facts, **facts, "event": event, "level": level, "timestamp": stamp}
        try:
            os.write(self._descriptor, json.dumps(line, default=str).encode() + b"\n")
        except OSError:
            pass
