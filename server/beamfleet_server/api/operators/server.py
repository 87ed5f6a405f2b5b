"""Owns the routes about the server itself: what it is, how it is, who is asking, its settings."""

import base64
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from beamfleet_server import __version__
from beamfleet_server.api.authentication import Authentication
from beamfleet_server.api.condition_schemas import Alarm, ExpiryCounts, Health
from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.health_schemas import Counts
from beamfleet_server.api.operators.authorities import described
from beamfleet_server.api.schemas import (
    Address,
    MetadataVersions,
    Page,
    ServerFacts,
    Setting,
    Who,
)
from beamfleet_server.authorities import Authorities
from beamfleet_server.broker.client import BrokerClient
from beamfleet_server.clock import Clock, rfc3339
from beamfleet_server.condition import is_well
from beamfleet_server.expiries import Expiries
from beamfleet_server.fleet.selector import Selector
from beamfleet_server.publishing import Publisher
from beamfleet_server.settings import Configuration
from beamfleet_server.store import Store
from beamfleet_server.store.expiries import DUE, EXPIRED
from beamfleet_server.store.operators import Operator

NOT_PRODUCTS = ("root", "targets", "snapshot", "timestamp")


def router(
    store: Store,
    authentication: Authentication,
    configuration: Configuration,
    listeners: Mapping[str, Address],
    authorities: Authorities,
    online_keys: Mapping[str, Mapping[str, Any]],
    client: BrokerClient,
    refused: Counter[str],
    publisher: Publisher,
    expiries: Expiries,
    clock: Clock,
) -> APIRouter:
    """`/server`, `/health`, `/whoami`, `/config`. `refused` counts dropped messages of devices by code."""
    routes = guarded("server")

    @routes.get("/server")
    def server() -> ServerFacts:
        """What a client needs to know: addresses, the fleet CA, online keys, versions of the metadata."""
        held = store.metadata.newest()
        root = held.get("root")
        return ServerFacts(
            version=__version__,
            name=configuration.settings.address,
            development=publisher.development,
            listeners=dict(listeners),
            fleet_ca=authorities.pem.decode(),
            authorities=described(store),
            online_keys={role: dict(key) for role, key in online_keys.items()},
            metadata=MetadataVersions(
                root=root[0] if root else None,
                targets=held["targets"][0] if "targets" in held else None,
                products={role: version for role, (version, _) in held.items() if role not in NOT_PRODUCTS},
                root_json_base64=base64.b64encode(root[1]).decode() if root else None,
            ),
        )

    @routes.get("/health")
    def health() -> Health:
        """How the server is."""
        devices, online = store.devices.counts()
        verdicts = store.health.counts(Selector(), clock())
        alarms, ending = publisher.alarms.sounding, expiries.all()
        dead = [row for row in ending if row.state == EXPIRED]
        return Health(
            status="ok" if is_well(client.up, alarms, ending) else "degraded",
            broker="up" if client.up else "down",
            devices=devices,
            online=online,
            verdicts=Counts(**verdicts),
            refused_messages=dict(refused),
            alarms=[Alarm(name=each.name, detail=each.detail, since=rfc3339(each.since)) for each in alarms],
            expiries=ExpiryCounts(due=sum(row.state == DUE for row in ending), expired=len(dead)),
        )

    @routes.get("/whoami")
    def whoami(operator: Annotated[Operator, Depends(authentication)]) -> Who:
        """The operator behind the token."""
        return Who(
            name=operator.name,
            role=operator.role,
            expires=rfc3339(operator.expires),
            scopes=sorted(operator.scopes),
            session=operator.session,
        )

    @routes.get("/config")
    def config() -> Page[Setting]:
        """Every setting with the source of its value."""
        return Page(items=[Setting.model_validate(row) for row in configuration.described()])

    return routes
