"""Owns the routes of devices' health: the list that is sorted and filtered by it, and a device's history.

The list is asked for often and of many devices: its rows become JSON by msgspec, in the shape that is described."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Response

from beamfleet_server.api import problems
from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.health_schemas import HealthDetails, HealthList, Reason, Sample, Samples, Standing
from beamfleet_server.api.operators.cursors import Cursor, Limit
from beamfleet_server.clock import Clock, rfc3339
from beamfleet_server.fleet.selector import Selector
from beamfleet_server.store import Store
from beamfleet_server.store.devices import Device
from beamfleet_server.store.enrolment import MAIN
from beamfleet_server.store.health import HealthPage, Sort
from beamfleet_server.store.standing import OFFLINE, UNKNOWN, reasons

_VERDICT = "(failing|degraded|unknown|offline|healthy)"
NOTHING = (None, None, None)
_encode = msgspec.json.Encoder().encode
_time = lru_cache(4096)(rfc3339)

Verdicts = Annotated[
    str | None,
    Query(pattern=f"^{_VERDICT}(,{_VERDICT}){{0,4}}$", description="only these, separated by commas"),
]


def router(store: Store, clock: Clock) -> APIRouter:
    """`/health/devices` and `/devices/{device}/samples`."""
    routes = guarded("health")

    @routes.get("/health/devices", response_model=HealthList)
    def devices(
        selector: Annotated[str, Query(max_length=2000)] = "",
        verdict: Verdicts = None,
        sort: Annotated[Sort, Query(description="the worst or largest first, without a number last")] = "verdict",
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Response:
        """Devices with their health, and how many have which verdict."""
        verdicts = frozenset(verdict.split(",")) if verdict else frozenset[str]()
        page, counts = store.health.page(Selector.parse(selector), verdicts, sort, cursor, limit, clock())
        return Response(encode(page, counts), media_type="application/json")

    @routes.get("/devices/{device}/samples", responses=problems.told("device.unknown"))
    def samples(
        device: str,
        since: Annotated[int, Query(ge=0, le=2**62, description="Unix seconds; else all there is")] = 0,
        resolution: Annotated[Literal["300", "3600"], Query(description="seconds: two days, or sixty")] = "300",
    ) -> Samples:
        """The history of a device's numbers, oldest first; the newest bucket is still filling."""
        found = store.samples.find(store.devices.find(device).name, MAIN, int(resolution), since, clock())
        items = [Sample(time=rfc3339(each.time), n=each.n, **each.numbers) for each in found]
        return Samples(resolution_s=int(resolution), items=items)

    return routes


def encode(page: HealthPage, counts: Mapping[str, int]) -> bytes:
    """A page as it travels."""
    return _encode({"items": [_item(row) for row in page.rows], "next": page.next, "counts": counts})


def standing(device: Device) -> Standing:
    """A device's verdict, as it travels."""
    return Standing(verdict=device.verdict, time=rfc3339(device.received))


def details(device: Device) -> HealthDetails:
    """A device's health, as it travels."""
    offline = (device.offline_reason, device.offline_since, device.last_seen)
    why = reasons(device.verdict, device.reasons, device.received, offline, device.clone)
    return HealthDetails(
        verdict=device.verdict,
        time=rfc3339(device.received),
        reasons=[Reason(**each) for each in _told(why)],
        starts=device.starts or 0,
        clock_offset_s=device.clock_offset_s or 0,
        dropped=device.dropped or 0,
        sections=dict(device.sections or {}),
    )


def _told(found: Iterable[Sequence[str]]) -> list[dict[str, Any]]:
    return [{"check": each[0], "level": each[1], "detail": each[2]} for each in found]


def _item(row: Any) -> dict[str, Any]:
    """A row of `store.health` in the shape of `DeviceHealth`."""
    (name, labels, verdict, found, received, starts, online, seen, why, since, profile, product, version) = row[:13]
    (memory, processes, run_queue, schedulers, queue, queue_name, atoms, restarts, uptime_ms) = row[13:22]
    (load, host_memory, disk, temperature, returns) = row[22:27]
    bare = verdict not in (OFFLINE, UNKNOWN) and not returns
    offline = (why, since, seen)
    beam = {
        "memory": memory,
        "processes": processes,
        "run_queue": run_queue,
        "schedulers": schedulers,
        "queue": queue,
        "queue_name": queue_name,
        "atoms_permille": atoms,
        "restarts": restarts,
        "uptime_ms": uptime_ms,
    }
    host = {"load": load, "memory_permille": host_memory, "disk_permille": disk, "temperature": temperature}
    return {
        "id": name,
        "labels": msgspec.Raw((labels or "{}").encode()),
        "verdict": verdict,
        "reasons": _told(found if bare else reasons(verdict, found, received, offline, max(returns, default=None))),
        "time": _time(received),
        "online": online,
        "last_seen": _time(seen),
        "product": product,
        "version": version,
        "profile": profile,
        "starts": starts or 0,
        "beam": beam if (memory, processes, uptime_ms) != NOTHING else None,
        "host": host if (load, host_memory, disk, temperature) != (*NOTHING, None) else None,
    }
