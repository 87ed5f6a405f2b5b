"""Owns putting the three ASGI applications together from what they answer from."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import FastAPI

from beamfleet_server.api import devices, enrolment, operators
from beamfleet_server.api.authentication import Authentication
from beamfleet_server.api.guard import Guard
from beamfleet_server.api.operators import (
    approvals,
    audit,
    authorities,
    bundles,
    enrolments,
    events,
    evidence,
    expiries,
    health,
    logs,
    metadata,
    pins,
    quarantine,
    retirement,
    rollouts,
    server,
    sessions,
    steering,
    stream,
    tokens,
    webhooks,
)
from beamfleet_server.api.operators import devices as operators_devices
from beamfleet_server.api.operators import operators as people
from beamfleet_server.api.renewals import Renewals
from beamfleet_server.api.schemas import Address
from beamfleet_server.authorities import Authorities
from beamfleet_server.bell import Bell
from beamfleet_server.broker.client import BrokerClient
from beamfleet_server.broker.passage import Passages
from beamfleet_server.clock import Clock
from beamfleet_server.data import DataDirectory
from beamfleet_server.errors import ServerError
from beamfleet_server.evidence import EvidenceFiles
from beamfleet_server.expiries import Expiries
from beamfleet_server.feed import Feed
from beamfleet_server.keys import OnlineKeys
from beamfleet_server.provider import Client, Provider
from beamfleet_server.publishing import Publisher
from beamfleet_server.rates import Rates
from beamfleet_server.relay import Relay
from beamfleet_server.settings import Configuration, Settings, read_secret
from beamfleet_server.store import Store

AT_ONCE = 10
"""Seconds of a rate that may be used at once."""
RENEWALS = 30
"""Of one device in the life of a certificate; one is needed."""


@dataclass(frozen=True, slots=True)
class Answering:
    """What the routes answer from. `bell` rings for events, `stopping` ends long polls, `refused` counts messages."""

    configuration: Configuration
    data: DataDirectory
    store: Store
    publisher: Publisher
    expiries: Expiries
    authorities: Authorities
    keys: OnlineKeys
    client: BrokerClient
    refused: Counter[str]
    bell: Bell
    feed: Feed
    hooks: webhooks.Hooks
    evidence: EvidenceFiles
    relay: Relay
    stopping: asyncio.Event
    clock: Clock


def applications(parts: Answering, addresses: Mapping[str, Address]) -> dict[str, FastAPI]:
    """The applications by listener: operators, devices, enrolment. `addresses`: where every listener is reached."""
    settings, store = parts.configuration.settings, parts.store
    of_operators = Rates(settings.requests_per_operator_s, AT_ONCE * settings.requests_per_operator_s)
    of_addresses = Rates(settings.requests_per_address_s, AT_ONCE * settings.requests_per_address_s)
    of_devices = Rates(settings.requests_per_device_s, AT_ONCE * settings.requests_per_device_s)
    of_renewals = Rates(RENEWALS / settings.device_life_s, RENEWALS)
    renewals = Renewals(store, parts.authorities, of_renewals, parts.clock)
    authentication = Authentication(store.operators, store.sessions, parts.clock, of_operators)
    routers = [
        server.router(
            store,
            authentication,
            parts.configuration,
            addresses,
            parts.authorities,
            parts.keys.described,
            parts.client,
            parts.refused,
            parts.publisher,
            parts.expiries,
            parts.clock,
        ),
        metadata.router(store, parts.publisher, authentication),
        bundles.router(store, parts.publisher, parts.data.quarantine, settings.max_bundle_bytes),
        tokens.router(store, authentication, parts.clock),
        enrolments.router(store, authentication, parts.clock),
        authorities.router(store, parts.authorities),
        operators_devices.router(store, parts.authorities, parts.client, parts.evidence, parts.clock),
        evidence.router(store, parts.evidence, parts.client, parts.clock),
        logs.router(
            store,
            parts.relay,
            parts.client,
            authentication,
            stream.still_there(authentication, store.sessions, parts.clock, logs.OPERATION),
            parts.stopping,
        ),
        health.router(store, parts.clock),
        rollouts.router(store, authentication, parts.clock, settings.approval_above),
        steering.router(store, authentication, parts.clock),
        approvals.router(store, authentication, parts.clock),
        quarantine.router(store, authentication, parts.clock),
        pins.router(store, authentication, parts.clock),
        retirement.router(store, authentication, parts.client, parts.clock),
        events.router(store, parts.bell, parts.stopping),
        stream.router(
            store,
            parts.feed,
            authentication,
            stream.still_there(authentication, store.sessions, parts.clock),
            parts.stopping,
        ),
        webhooks.router(store, authentication, parts.hooks, parts.clock),
        expiries.router(parts.expiries),
        sessions.router(store, authentication, parts.clock),
        people.router(store, authentication, parts.clock),
        audit.router(store),
    ]
    return {
        "operators": operators.application(
            authentication,
            Guard(authentication.admit, store.audit),
            store,
            parts.clock,
            _provider(settings, addresses["operators"], parts.clock),
            lambda: parts.publisher.development,
            of_addresses,
            routers,
            streamed=[bundles.UPLOAD],
        ),
        "devices": devices.application(
            store,
            parts.publisher,
            parts.keys,
            parts.evidence,
            Passages(*parts.client.address),
            renewals,
            of_devices,
            parts.clock,
        ),
        "enrolment": enrolment.application(
            store,
            parts.authorities,
            parts.clock,
            of_addresses,
            renewals,
            approval=settings.enrolment_approval,
        ),
    }


def _provider(settings: Settings, operators_at: Address, clock: Clock) -> Provider | None:
    """The OpenID provider of the settings; error `server.settings` for half of one."""
    if not settings.oidc_issuer:
        return None
    if not settings.oidc_client_id or settings.oidc_client_secret_file is None:
        what = "oidc_issuer needs oidc_client_id and oidc_client_secret_file as well"
        raise ServerError("server.settings", what, "see `beamfleet serve --help`")
    host = f"[{operators_at.host}]" if ":" in operators_at.host else operators_at.host
    client = Client(
        issuer=settings.oidc_issuer,
        client_id=settings.oidc_client_id,
        secret=read_secret(settings.oidc_client_secret_file, shortest=8),
        role_claim=settings.oidc_role_claim,
        redirect=f"https://{host}:{operators_at.port}/login/oidc/callback",
        ca=settings.oidc_ca_file,
    )
    return Provider(client, clock)
