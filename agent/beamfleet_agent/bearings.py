"""Owns what the worker has learnt from signed metadata and the whole agent goes by; `trust/bearings` and a PEM file.

    authorities   who vouches for servers: the signed ones if there are any, otherwise the one that was laid down
    servers       where to look, in this order: the signed addresses, then the one that was laid down
    versions      which metadata the device keeps, for its reports: a server must not go back behind them

The worker writes them after each look at the metadata; they are read whenever they are needed, so that nobody has to be
told. What is lost or torn counts as never learnt: the next look learns it again. Part of the resident agent.
"""

import json
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

from beamfleet_bundles import durable

from beamfleet_agent.errors import AgentError
from beamfleet_agent.paths import Paths
from beamfleet_agent.settings import Server, check_server

MAX_BYTES = 1 << 16
_MOST = 2**63 - 1
_ROLES = ("root", "timestamp", "snapshot", "targets")


class Bearings(NamedTuple):
    """The content of `trust/bearings`."""

    servers: tuple[Server, ...] = ()
    versions: dict[str, Any] | None = None
    """As the state report has them; None before the first look."""


def load(paths: Paths) -> Bearings:
    """What was learnt last."""
    try:
        with open(paths.bearings, "rb") as file:
            found = json.loads(file.read(MAX_BYTES))
        servers = tuple(check_server(entry) for entry in found["servers"])
        said = found["versions"]
        versions: dict[str, Any] = {role: _count(said[role]) for role in _ROLES}
        versions["products"] = {str(name): _count(number) for name, number in said["products"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, AgentError):
        return Bearings()
    return Bearings(servers, versions)


def store(paths: Paths, authorities: bytes, servers: Iterable[dict[str, str]], versions: dict[str, Any]) -> None:
    """Keep what signed metadata says; writes nothing that is there already. Error: OSError."""
    if authorities:
        durable.replace(paths.authorities, authorities)
    elif os.path.exists(paths.authorities):
        os.unlink(paths.authorities)
        durable.sync_directory(paths.trust)
    _write(paths, list(servers), versions)


def store_versions(paths: Paths, versions: dict[str, Any]) -> None:
    """Keep the versions alone; where the server is stays as it was. Error: OSError."""
    _write(paths, [_spelled(server) for server in load(paths).servers], versions)


def authorities(paths: Paths) -> str:
    """The PEM file with the certificates that vouch for this fleet's servers."""
    return paths.authorities if os.path.exists(paths.authorities) else paths.ca


def servers(paths: Paths, laid_down: Server) -> tuple[Server, ...]:
    """Where to look for the server, the preferred place first."""
    return (*(known := load(paths).servers), *(() if laid_down in known else (laid_down,)))


def _write(paths: Paths, servers: list[dict[str, str]], versions: dict[str, Any]) -> None:
    text = json.dumps({"servers": servers, "versions": versions}, separators=(",", ":"))
    durable.replace(paths.bearings, text.encode())


def _spelled(server: Server) -> dict[str, str]:
    host = f"[{server.mqtt_host}]" if ":" in server.mqtt_host else server.mqtt_host
    return {"api": server.api, "enrol": server.enrol, "mqtt": f"{host}:{server.mqtt_port}"}


def _count(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(number)
    return min(number, _MOST)
