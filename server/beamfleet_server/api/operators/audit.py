"""Owns the route of the audit chain. Whoever reads it can check it: `beamfleet audit verify` does."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query

from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.operators.cursors import Limit
from beamfleet_server.api.schemas import AuditEntry, Page
from beamfleet_server.audit import Entry
from beamfleet_server.store import Store

Number = Annotated[int, Query(ge=0, le=2**62, description="only those with a higher number")]


def router(store: Store) -> APIRouter:
    """`/audit`."""
    routes = guarded("audit")

    @routes.get("/audit")
    def listed(
        after: Number = 0,
        limit: Limit = 100,
        newest: Annotated[bool, Query(description="the last ones instead of the first ones")] = False,
    ) -> Page[AuditEntry]:
        """Entries of the audit chain in their order; `next` is the number to go on after, null at the end."""
        if newest:
            found = [each for each in reversed(store.audit.newest(limit)) if each.id > after]
            return Page(items=[_described(each) for each in found])
        found = store.audit.after(after, limit + 1)
        items = [_described(each) for each in found[:limit]]
        return Page(items=items, next=str(items[-1].id) if len(found) > limit else None)

    return routes


def _described(entry: Entry) -> AuditEntry:
    return AuditEntry(**asdict(entry))
