"""Owns what runs out and when: signed metadata, certificates, revocation lists, operators' tokens. Says so once when
half of a life is over, and once at its end; never renews anything itself.

What the server renews by itself is due only when that did not happen: at three quarters of its life.
"""

import json
import re
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from beamfleet_bundles import assignment
from cryptography import x509

from beamfleet_server.ca import authority_id
from beamfleet_server.clock import Clock
from beamfleet_server.data import DataDirectory
from beamfleet_server.store import Store
from beamfleet_server.store.expiries import DUE, EXPIRED, OK, Expiry, State
from beamfleet_server.store.seen import SIGNED_HERE

BY_ITSELF = "the server does it by itself; its log says why it did not"
CRL = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)


class Expiries:
    """Everything of this server that runs out."""

    def __init__(self, store: Store, data: DataDirectory, clock: Clock) -> None:
        self._store = store
        self._data = data
        self._clock = clock

    def all(self) -> list[Expiry]:
        """Each with its state now; what runs out first stands first."""
        now = self._clock()
        found = [
            *self._metadata(now),
            *self._assignments(now),
            *self._certificates(now),
            *self._revocations(now),
            *self._tokens(now),
        ]
        return sorted(found, key=lambda row: (row.expires, row.what))

    def tell(self) -> list[Expiry]:
        """Make an event of each that has become due or has expired since the last time; these."""
        return self._store.expiries.tell(self.all(), self._clock())

    def _metadata(self, now: int) -> Iterator[Expiry]:
        for role, (created, body) in self._store.metadata.dated().items():
            if role in SIGNED_HERE:
                yield _row(role, created, _end_of(body), BY_ITSELF, now, by_itself=True)
            else:
                what = role if role in ("root", "targets") else f"product {role}"
                yield _row(what, created, _end_of(body), f"beamfleet keys plan renew {role} --out FILE", now)

    def _assignments(self, now: int) -> Iterator[Expiry]:
        oldest = self._store.assignments.oldest_online()
        if oldest is not None:
            end = oldest + int(assignment.LIFETIME.total_seconds())
            yield _row("director", oldest, end, BY_ITSELF, now, by_itself=True)

    def _certificates(self, now: int) -> Iterator[Expiry]:
        for each in _certificates_in(self._data.ca_certificate):
            mend = "beamfleet authority new, then beamfleet authority activate ID"
            yield _row(f"authority {authority_id(each)}", *_life_of(each), mend, now)
        own = {"server certificate": "server.pem", "broker session": "client_server.pem"}
        for what, file in own.items():
            for each in _certificates_in(self._data.ca / file):
                yield _row(what, *_life_of(each), BY_ITSELF, now, by_itself=True)

    def _revocations(self, now: int) -> Iterator[Expiry]:
        for number, pem in enumerate(CRL.findall(_read(self._data.broker / "revoked.pem"))):
            found = x509.load_pem_x509_crl(pem)
            if found.next_update_utc is not None:
                what = "revocation list" if number == 0 else f"revocation list {number + 1}"
                life = (_seconds(found.last_update_utc), _seconds(found.next_update_utc))
                yield _row(what, *life, BY_ITSELF, now, by_itself=True)

    def _tokens(self, now: int) -> Iterator[Expiry]:
        for each in self._store.operators.all():
            if each.expires is not None:
                mend = (
                    f"beamfleet operator revoke {each.name}; beamfleet operator create {each.name} --role {each.role}"
                )
                yield _row(f"operator token {each.name}", each.created, each.expires, mend, now, vital=False)


def _row(
    what: str, issued: int, expires: int, mend: str, now: int, *, by_itself: bool = False, vital: bool = True
) -> Expiry:
    life = expires - issued
    due_at = issued + (life * 3 // 4 if by_itself else life // 2)
    state: State = EXPIRED if expires <= now else DUE if due_at <= now else OK
    return Expiry(what, issued, expires, issued + life // 2, state, mend, vital)


@lru_cache(maxsize=256)
def _end_of(metadata: bytes) -> int:
    expires: str = json.loads(metadata)["signed"]["expires"]
    return _seconds(datetime.fromisoformat(expires))


def _life_of(certificate: x509.Certificate) -> tuple[int, int]:
    return _seconds(certificate.not_valid_before_utc), _seconds(certificate.not_valid_after_utc)


def _certificates_in(file: Path) -> list[x509.Certificate]:
    pem = _read(file)
    return x509.load_pem_x509_certificates(pem) if pem else []


def _read(file: Path) -> bytes:
    """A file that is not there, at this moment or at all, has nothing in it that runs out."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


def _seconds(time: datetime) -> int:
    return int(time.timestamp())
