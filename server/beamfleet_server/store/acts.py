"""Owns the word for what somebody is doing right now, so that the change and its audit entry are committed together.

A request sets `ACTING` for its own flow of control; threads that work for it get a copy of that context. The first
change that is committed under an act carries the entry of the audit chain in the same transaction; what changed
nothing, or was refused, is recorded by the request's end."""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Act:
    """Who does what from where, and what it is done to; `recorded` when an entry says that it was done."""

    actor: str
    address: str
    action: str
    target: str = ""
    detail: str = ""
    recorded: bool = False


ACTING: ContextVar[Act | None] = ContextVar("acting", default=None)
"""What this flow of control does for somebody; None for what the server does by itself."""


def about(target: str, detail: str = "") -> None:
    """Say what the act that is going on is done to."""
    act = ACTING.get()
    if act is not None:
        act.target, act.detail = target, detail
