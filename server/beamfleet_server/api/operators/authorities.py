"""Owns the routes of the fleet's authorities: the list, and the three steps in which a new one takes over."""

from beamfleet_bundles import pki
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from fastapi import APIRouter

from beamfleet_server.api import problems
from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.identity_schemas import Retirement
from beamfleet_server.api.schemas import Authority, Page
from beamfleet_server.authorities import Authorities
from beamfleet_server.clock import rfc3339
from beamfleet_server.store import Store
from beamfleet_server.store.acts import about


def router(store: Store, authorities: Authorities) -> APIRouter:
    """`/authorities`."""
    routes = guarded("authorities")

    @routes.get("/authorities")
    def listed() -> Page[Authority]:
        """The fleet's authorities, the one that signs first."""
        return Page(items=described(store))

    @routes.post("/authorities", status_code=201, responses=problems.told("authority.too_many"))
    def create() -> Authority:
        """Make a further authority. It is trusted from now on, and signs nothing yet."""
        made = authorities.create()
        about(made)
        return _one(store, made)

    @routes.post("/authorities/{authority}/activate", responses=problems.told("authority.unknown", "authority.retired"))
    def activate(authority: str) -> Authority:
        """Let a trusted authority sign certificates from now on, also the server's own."""
        authorities.activate(authority)
        return _one(store, authority)

    @routes.post(
        "/authorities/{authority}/retire",
        responses=problems.told("authority.unknown", "authority.active", "authority.in_use"),
    )
    def retire(authority: str, how: Retirement) -> Authority:
        """Trust an authority no longer: its certificates may renew, and do nothing else. Its key is removed."""
        about(authority, "forced" if how.force else "")
        authorities.retire(authority, force=how.force)
        return _one(store, authority)

    return routes


def described(store: Store) -> list[Authority]:
    """Every authority, the one that signs first."""
    used = store.authorities.devices()
    return [
        Authority(
            id=each.id,
            state=each.state,
            created=rfc3339(each.created),
            not_after=rfc3339(pki.read_certificate(pki.load_certificate(each.der)).not_after),
            devices=used.get(each.id, 0),
            pem=x509.load_der_x509_certificate(each.der).public_bytes(Encoding.PEM).decode(),
        )
        for each in store.authorities.all()
    ]


def _one(store: Store, authority: str) -> Authority:
    return next(each for each in described(store) if each.id == authority)
