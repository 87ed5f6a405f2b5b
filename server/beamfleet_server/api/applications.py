"""Owns putting the three ASGI applications together from what they answer from."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import FastAPI

from beamfleet_server.api import devices, enrolment, operators
from beamfleet_server.api.authentication import Authentication
from beamfleet_server.api.operators import bundles, events, metadata, rollouts, server, tokens
from beamfleet_server.api.operators import devices as operators_devices
from beamfleet_server.api.schemas import Address
from beamfleet_server.bell import Bell
from beamfleet_server.broker.client import BrokerClient
from beamfleet_server.ca import FleetAuthority
from beamfleet_server.clock import Clock
from beamfleet_server.data import DataDirectory
from beamfleet_server.keys import OnlineKeys
from beamfleet_server.publishing import Publisher
from beamfleet_server.settings import Configuration
from beamfleet_server.store import Store


@dataclass(frozen=True, slots=True)
class Answering:
    """What the routes answer from. `bell` rings for events, `stopping` ends long polls, `refused` counts messages."""

    configuration: Configuration
    data: DataDirectory
    store: Store
    publisher: Publisher
    authority: FleetAuthority
    keys: OnlineKeys
    client: BrokerClient
    refused: Counter[str]
    bell: Bell
    stopping: asyncio.Event
    clock: Clock


def applications(parts: Answering, addresses: Mapping[str, Address]) -> dict[str, FastAPI]:
    """The applications by listener: operators, devices, enrolment. `addresses`: where every listener is reached."""
    authentication = Authentication(parts.store.operators, parts.clock)
    largest = parts.configuration.settings.max_bundle_bytes
    routers = [
        server.router(
            parts.store,
            authentication,
            parts.configuration,
            addresses,
            parts.authority.pem,
            parts.keys.described,
            parts.client,
            parts.refused,
        ),
        metadata.router(parts.store, parts.publisher),
        bundles.router(parts.store, parts.publisher, parts.data.quarantine, largest),
        tokens.router(parts.store, parts.clock),
        operators_devices.router(parts.store, parts.client),
        rollouts.router(parts.store, parts.clock),
        events.router(parts.store, parts.bell, parts.stopping),
    ]
    return {
        "operators": operators.application(authentication, routers, streamed=[bundles.UPLOAD]),
        "devices": devices.application(parts.store, parts.publisher, parts.keys),
        "enrolment": enrolment.application(parts.store, parts.authority, parts.clock),
    }
