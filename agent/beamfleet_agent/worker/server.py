"""Owns the way from a job to the server's listeners: which addresses, which authorities, which pair, which clock."""

from datetime import datetime
from pathlib import Path

from beamfleet_bundles import clock

from beamfleet_agent import bearings, proxy
from beamfleet_agent.errors import AgentError
from beamfleet_agent.settings import Server
from beamfleet_agent.worker.job import Job
from beamfleet_agent.worker.transport import Through, Transport


def known(job: Job) -> tuple[Server, ...]:
    """The servers of this device, the preferred one first; error `enrol.no_server`."""
    if job.settings.server is None:
        raise AgentError("enrol.no_server", "this device knows no server", "give agent.toml a [server]")
    return bearings.servers(job.paths, job.settings.server)


def knows_the_time(job: Job, now: datetime) -> bool:
    """Whether the device's clock shows a time that can be."""
    return not clock.is_behind(now, clock.BUILD_TIME, clock.SignedTime.load(Path(job.paths.trust)))


def devices_listener(job: Job, now: datetime, pair: str = "") -> Transport:
    """The listener for enrolled devices, with the pair in this file, or the current one."""
    addresses = [server.api for server in known(job)]
    return Transport(addresses, bearings.authorities(job.paths), pair or job.paths.pair, _floor(job, now), through(job))


def enrolment_listener(job: Job, now: datetime, pair: str | None = None) -> Transport:
    """The listener that gives certificates; `pair` is the file of the one that is to be renewed."""
    addresses = [server.enrol for server in known(job)]
    return Transport(addresses, bearings.authorities(job.paths), pair, _floor(job, now), through(job))


def through(job: Job) -> Through | None:
    """The proxy of this device, if it has one."""
    found = proxy.parse(job.settings.proxy)
    return None if found is None else Through(found, proxy.secret(job.paths))


def _floor(job: Job, now: datetime) -> int | None:
    """A signed time may be a thief's, see `clock`: TLS counts with the build time alone."""
    return None if knows_the_time(job, now) else clock.BUILD_TIME
