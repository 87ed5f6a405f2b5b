"""Owns the fleet's quarantine: bundles that no rollout offers until a person lifts it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, insert, select, update

from beamfleet_server.errors import ServerError
from beamfleet_server.store.bundles import PublishedBundle
from beamfleet_server.store.database import Database
from beamfleet_server.store.events import NewEvent, append
from beamfleet_server.store.tables import quarantine


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A bundle in quarantine, or one that was (`lifted`). Times in Unix seconds."""

    manifest: str
    product: str
    version: str
    rollout_id: int | None
    time: int
    reason: str
    evidence: str
    lifted_by: str
    lifted: int | None


class Quarantine:
    """The quarantine."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, limit: int, *, after: str = "", lifted: bool = False) -> list[Quarantined]:
        """At most `limit` entries by manifest, beginning after the manifest `after`; `lifted`: also what is over."""
        query = select(quarantine).where(quarantine.c.manifest > after).order_by(quarantine.c.manifest).limit(limit)
        if not lifted:
            query = query.where(quarantine.c.lifted.is_(None))
        return self._database.read(lambda connection: [_read(row) for row in connection.execute(query)])

    def lift(
        self, by: str, now: int, *, manifest: str | None = None, product: str = "", version: str = ""
    ) -> list[str]:
        """Let a bundle, or all of a release, be offered again; the manifests. Error `quarantine.unknown`."""
        which = (
            quarantine.c.manifest == manifest
            if manifest is not None
            else and_(quarantine.c.product == product, quarantine.c.version == version)
        )

        def change(connection: Connection) -> list[str]:
            held = select(quarantine).where(which, quarantine.c.lifted.is_(None)).order_by(quarantine.c.manifest)
            rows = connection.execute(held).all()
            if not rows:
                what = f"{manifest[:64] if manifest is not None else f'{product} {version}'} is not in quarantine"
                raise ServerError("quarantine.unknown", what, "see: beamfleet quarantine list")
            over = update(quarantine).where(quarantine.c.manifest.in_([row.manifest for row in rows]))
            connection.execute(over.values(lifted=now, lifted_by=by))
            named = dict.fromkeys(f"{row.product} {row.version}" for row in rows)
            told = [NewEvent(now, "rollout", "lifted", f"{name} by {by}") for name in named]
            append(self._database, connection, told)
            return [row.manifest for row in rows]

        return self._database.write(change)


def among(connection: Connection, manifests: Iterable[str]) -> set[str]:
    """Inside a change: which of these are in quarantine."""
    query = select(quarantine.c.manifest).where(
        quarantine.c.manifest.in_(sorted(manifests)), quarantine.c.lifted.is_(None)
    )
    return set(connection.scalars(query))


def put(
    connection: Connection, held: Iterable[PublishedBundle], rollout_id: int, reason: str, now: int
) -> list[PublishedBundle]:
    """Inside a change: put these into quarantine; those that were not in it."""
    known = {bundle.manifest: bundle for bundle in held}
    fresh = sorted(known.keys() - among(connection, known))
    connection.execute(delete(quarantine).where(quarantine.c.manifest.in_(fresh)))
    rows = [
        {
            "manifest": manifest,
            "product": known[manifest].product,
            "version": known[manifest].version,
            "rollout_id": rollout_id,
            "time": now,
            "reason": reason,
        }
        for manifest in fresh
    ]
    if rows:
        connection.execute(insert(quarantine), rows)
    return [known[manifest] for manifest in fresh]


def _read(row: Row[Any]) -> Quarantined:
    return Quarantined(*tuple(row))
