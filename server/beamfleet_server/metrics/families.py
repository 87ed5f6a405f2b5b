"""Owns the names, help texts and labels of all metrics: turns readings into metric families; pure.

How many series there are does not grow with the fleet, unless somebody asks for those of each device. What a device
may have written into a label is cut and shown in ASCII; the exposition format escapes the rest."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from beamfleet_server.alarms import Alarm
from beamfleet_server.feed import CAUSES, RESTART
from beamfleet_server.refusals import shown
from beamfleet_server.store.expiries import Expiry
from beamfleet_server.store.figures import DeviceFigures, Figures, SlowFigures

MOST_EXPIRIES = 100
"""Of those that end first."""
MOST_CODES = 100
"""Codes of refusals are ours; this is for the one that is not."""

NONE_TAKEN = dict.fromkeys(("event", "health", "presence", "progress", "state"), 0)
NONE_REFUSED = dict.fromkeys(
    ("device.unknown", "message.kind", "message.rate", "message.schema", "message.syntax", "message.too_large"), 0
)
NO_EVENTS = {
    **{(kind, ""): 0 for kind in ("alarm", "enrolled", "presence", "rollout", "update")},
    **{(RESTART, cause): 0 for cause in CAUSES if cause},
}
"""What is there from the start: of a series that begins with its first count nobody sees that it has grown."""


@dataclass(frozen=True, slots=True)
class Readings:
    """What there is to show. `commits` and `process` are families already; `figures` and what comes with them are None
    while the database cannot be read; `devices` is None unless somebody asked for each device."""

    version: str
    started: float
    broker_up: bool
    waiting: int
    taken: Mapping[str, int]
    commits: tuple[Metric, ...]
    process: tuple[Metric, ...]
    refused: Mapping[str, int]
    last_commit: float
    events: Mapping[tuple[str, str], int]
    alarms: tuple[Alarm, ...]
    figures: Figures | None
    slow: SlowFigures | None
    expiries: tuple[Expiry, ...]
    devices: tuple[DeviceFigures, ...] | None = None


def families(readings: Readings) -> Iterator[Metric]:
    """All families in one order."""
    yield InfoMetricFamily("beamfleet_build", "The running server.", {"version": readings.version})
    yield _gauge("beamfleet_start_time_seconds", "When the server started, in Unix seconds.", readings.started)
    yield _gauge("beamfleet_broker_up", "Whether the server has its session with the broker.", readings.broker_up)
    yield _gauge("beamfleet_database_up", "Whether the database could be read.", readings.figures is not None)
    yield from readings.process
    yield from _ingest(readings)
    told = "Events that were kept since the start; of restarts with their cause."
    events = CounterMetricFamily("beamfleet_events", told, labels=("kind", "cause"))
    for (kind, cause), number in sorted((NO_EVENTS | dict(readings.events)).items()):
        events.add_metric((_label(kind), _label(cause)), number)
    yield events
    yield _gauge("beamfleet_alarms", "Alarms of the server that sound.", len(readings.alarms))
    sounding = GaugeMetricFamily("beamfleet_alarm_since_seconds", "Since when an alarm sounds.", labels=("name",))
    for alarm in readings.alarms:
        sounding.add_metric((_label(alarm.name),), alarm.since)
    yield sounding
    if readings.figures is not None:
        yield from _fleet(readings.figures)
        yield from _rollouts(readings.figures)
        yield _by("beamfleet_webhooks", "Webhooks by how they stand.", "state", readings.figures.webhooks)
        yield _gauge(
            "beamfleet_webhook_deliveries_pending",
            "Deliveries that have not arrived yet.",
            readings.figures.deliveries_pending,
        )
    if readings.slow is not None:
        yield from _slow(readings.slow, readings.expiries)
    if readings.devices is not None:
        yield from _devices(readings.devices)


def _ingest(readings: Readings) -> Iterator[Metric]:
    taken = CounterMetricFamily(
        "beamfleet_ingest_messages", "Messages of devices that are committed.", labels=("kind",)
    )
    for kind, number in sorted((NONE_TAKEN | dict(readings.taken)).items()):
        taken.add_metric((_label(kind),), number)
    yield taken
    refused = CounterMetricFamily("beamfleet_ingest_refused", "Messages that were dropped, by code.", labels=("code",))
    for code, number in sorted((NONE_REFUSED | dict(readings.refused)).items())[:MOST_CODES]:
        refused.add_metric((_label(code),), number)
    yield refused
    yield _gauge("beamfleet_ingest_waiting_messages", "Messages that wait to be committed.", readings.waiting)
    yield _gauge(
        "beamfleet_ingest_last_commit_timestamp_seconds",
        "When messages were committed last; 0: never.",
        readings.last_commit,
    )
    yield from readings.commits


def _fleet(figures: Figures) -> Iterator[Metric]:
    yield _by("beamfleet_devices", "Devices by their health.", "verdict", figures.verdicts)
    profiles = GaugeMetricFamily("beamfleet_devices_by_profile", "Devices by how they report.", labels=("profile",))
    online = GaugeMetricFamily("beamfleet_devices_online", "Devices with a session, by profile.", labels=("profile",))
    for profile, (all_, connected) in sorted(figures.profiles.items()):
        profiles.add_metric((profile,), all_)
        online.add_metric((profile,), connected)
    yield profiles
    yield online
    running = GaugeMetricFamily(
        "beamfleet_devices_running", "Devices by the release that they run.", labels=("product", "version")
    )
    for (product, version), number in sorted(figures.releases.items()):
        running.add_metric((_label(product), _label(version)), number)
    yield running
    yield _gauge(
        "beamfleet_last_report_timestamp_seconds", "When a device was heard last; 0: never.", figures.last_report
    )


def _rollouts(figures: Figures) -> Iterator[Metric]:
    yield _by("beamfleet_rollouts", "Rollouts by state.", "state", figures.rollouts)
    members = GaugeMetricFamily(
        "beamfleet_rollout_members",
        "Devices of the newest rollouts under way, by how far they are.",
        labels=("rollout", "product", "version", "state"),
    )
    for rollout in figures.under_way:
        for state, number in sorted(rollout.members.items()):
            members.add_metric((str(rollout.id), _label(rollout.product), _label(rollout.version), state), number)
    yield members


def _slow(slow: SlowFigures, expiries: tuple[Expiry, ...]) -> Iterator[Metric]:
    ends = GaugeMetricFamily(
        "beamfleet_expiry_timestamp_seconds",
        "When metadata, certificates, revocation lists and tokens run out.",
        labels=("what", "vital"),
    )
    due = GaugeMetricFamily(
        "beamfleet_expiry_due", "Whether it should have been renewed by now.", labels=("what", "vital")
    )
    for row in expiries[:MOST_EXPIRIES]:
        labels = (_label(row.what), "yes" if row.vital else "no")
        ends.add_metric(labels, row.expires)
        due.add_metric(labels, row.state != "ok")
    yield ends
    yield due
    certificates = {"expired": slow.certificates_expired, "ending": slow.certificates_ending}
    help_ = "Devices without a certificate that is good for more than a sixth of its life."
    yield _by("beamfleet_device_certificates", help_, "state", certificates)
    yield _gauge("beamfleet_database_bytes", "Size of the database.", slow.database_bytes)


def _devices(devices: tuple[DeviceFigures, ...]) -> Iterator[Metric]:
    verdict = GaugeMetricFamily("beamfleet_device_verdict", "The health of a device.", labels=("device", "verdict"))
    memory = GaugeMetricFamily("beamfleet_device_memory_bytes", "What its release uses.", labels=("device",))
    processes = GaugeMetricFamily("beamfleet_device_processes", "Processes of its release.", labels=("device",))
    queue = GaugeMetricFamily("beamfleet_device_queue_messages", "Its longest message queue.", labels=("device",))
    for device in devices:
        name = _label(device.name)
        verdict.add_metric((name, device.verdict), 1)
        for family, value in ((memory, device.memory), (processes, device.processes), (queue, device.queue)):
            if value is not None:
                family.add_metric((name,), value)
    yield from (verdict, memory, processes, queue)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _by(name: str, text: str, label: str, numbers: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for key, number in sorted(numbers.items()):
        family.add_metric((_label(key),), number)
    return family


def _label(value: str) -> str:
    return str(shown(value))
