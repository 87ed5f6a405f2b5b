"""Owns reading a plan: a closed schema, and errors that name the field and say how to mend it."""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.names import check_device, check_label, check_product, check_version

from beamfleet_server.fleet.plan import ALL, CANARY, NETWORKS, REST, Phase, Plan, Size, Step
from beamfleet_server.fleet.selection import FACTS, Choices, Selection
from beamfleet_server.fleet.spelling import duration, minute, percent, refused, shown, size
from beamfleet_server.fleet.versions import Condition, key
from beamfleet_server.fleet.window import DAYS, Window

MOST_PHASES, MOST_WINDOWS, MOST_STEPS, MOST_VALUES, MOST_IDS = 20, 20, 10, 50, 10_000
LONGEST_NOTES, LONGEST_NOTE = 16_384, 1024
MOST_RETRIES, LARGEST_PRIORITY = 20, 100
DONE = "done"
"""No phase is called so: it is what a completed rollout is in."""
_PHASE = re.compile(r"[A-Za-z0-9_-]{1,31}")


def parse(given: Mapping[str, Any]) -> Plan:
    """`Plan.parse`."""
    fields = _fields(given, "", (
        "product", "version", "devices", "phases", "max_parallel", "deadline", "expires", "retries", "backoff",
        "window", "priority", "network", "force", "steps", "notes", "note",
    ))  # fmt: skip
    for name in ("product", "version", "devices"):
        if name not in fields:
            raise refused("missing", name, "is missing", f"add {name}: to the plan")
    phases = _phases(fields.get("phases"))
    deadline = duration(fields.get("deadline", "24h"), "deadline")
    expires = duration(fields.get("expires", "30d"), "expires")
    for name, seconds in (("deadline", deadline), ("expires", expires)):
        if seconds < 1:
            raise refused("duration", name, "0 leaves no time at all", "write 24h, 30d")
    version = _named(check_version, fields["version"], "version")
    return Plan(
        product=_named(check_product, fields["product"], "product"),
        version=version,
        devices=_selection(fields["devices"]),
        phases=phases,
        max_parallel=_number(fields.get("max_parallel", 0), "max_parallel", 0, 10**9),
        deadline=deadline,
        expires=expires,
        retries=_number(fields.get("retries", 3), "retries", 0, MOST_RETRIES),
        backoff=duration(fields.get("backoff", "10m"), "backoff"),
        window=_windows(fields.get("window")),
        priority=_number(fields.get("priority", 0), "priority", -LARGEST_PRIORITY, LARGEST_PRIORITY),
        network=_networks(fields.get("network")),
        force=_flag(fields.get("force", False), "force"),
        steps=_steps(fields.get("steps"), version),
        notes=_text(fields.get("notes", ""), "notes", LONGEST_NOTES),
        note=_text(fields.get("note", ""), "note", LONGEST_NOTE),
    )


def _selection(given: Any) -> Selection:
    if not isinstance(given, Mapping):
        what = f"{shown(given)} is no mapping of names to values"
        raise refused("type", "devices", what, "write devices: {all: true}, or {labels: {site: berlin}}")
    fields = _fields(given, "devices", ("all", "labels", "facts", "versions", "ids", "percent", "salt"))
    share = fields.get("percent", 100)
    share = percent(share, "devices.percent") if isinstance(share, str) else _number(share, "devices.percent", 1, 100)
    if share < 1:
        raise refused("size", "devices.percent", "0% is nobody", "write 1 to 100")
    chosen = Selection(
        all=_flag(fields.get("all", False), "devices.all"),
        labels=_choices(fields.get("labels"), "devices.labels", None),
        facts=_choices(fields.get("facts"), "devices.facts", FACTS),
        versions=tuple(
            _condition(each, f"devices.versions[{index}]")
            for index, each in enumerate(_list(fields.get("versions"), "devices.versions", MOST_VALUES))
        ),
        ids=tuple(dict.fromkeys(
            _named(check_device, each, f"devices.ids[{index}]")
            for index, each in enumerate(_list(fields.get("ids"), "devices.ids", MOST_IDS))
        )),
        percent=share,
        salt=_text(fields.get("salt", ""), "devices.salt", 64),
    )  # fmt: skip
    if chosen.empty:
        hint = "write all: true, or labels, facts, versions, ids, percent"
        raise refused("devices", "devices", "nobody is meant", hint)
    return chosen


def _choices(given: Any, field: str, known: Sequence[str] | None) -> Choices:
    fields = _mapping(given if given is not None else {}, field)
    if len(fields) > MOST_VALUES:
        raise refused("too_many", field, f"more than {MOST_VALUES} keys", "use a label for what they have in common")
    chosen = []
    for name, value in fields.items():
        if known is not None and name not in known:
            raise refused("unknown_field", f"{field}.{shown(name)}", "is not known", f"there are: {', '.join(known)}")
        values = _list(value if isinstance(value, list) else [value], f"{field}.{name}", MOST_VALUES)
        if not values:
            raise refused("devices", f"{field}.{name}", "has no value", "write one, or a list of which one must hold")
        chosen.append((name, tuple(dict.fromkeys(_value(name, each, field, known is None) for each in values))))
    return tuple(sorted(chosen))


def _value(name: str, value: Any, field: str, label: bool) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    text = _text(value, f"{field}.{name}", 64)
    if label:
        try:
            check_label(name, text)
        except BundleError as error:
            raise refused("devices", f"{field}.{name[:80]}", error.message, error.hint) from None
    return text


def _condition(given: Any, field: str) -> Condition:
    try:
        return Condition.parse(_text(given, field, 256))
    except ValueError as error:
        raise refused("versions", field, str(error), 'write "1.0.5" or ">=1.2,<2"') from None


def _phases(given: Any) -> tuple[Phase, ...]:
    if given is None:
        return CANARY, REST
    listed = _list(given, "phases", MOST_PHASES)
    phases = [_phase(each, f"phases[{index}]") for index, each in enumerate(listed)]
    if not phases or not phases[-1].devices.everyone:
        phases.append(REST)
    for index, (before, after) in enumerate(pairwise(phases)):
        larger = before.devices.number < after.devices.number
        if before.devices.everyone or (before.devices.percent == after.devices.percent and not larger):
            what = f"{after.devices.told()} is not more than the {before.devices.told()} of the phase before"
            raise refused("phases", f"phases[{index + 1}].devices", what, "sizes count from the first phase on")
    names = [phase.name for phase in phases]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise refused("phases", f"phases[{names.index(twice)}].name", f"two phases are called {twice}", "rename one")
    if phases[-1].gate:
        where = f"phases[{len(phases) - 1}].gate"
        raise refused("phases", where, "there is no phase after it to approve", "put the gate on the phase before")
    return tuple(phases)


def _phase(given: Any, field: str) -> Phase:
    known = ("name", "devices", "soak", "gate", "failures", "successes", "max_parallel")
    fields = _fields(given, field, known)
    name = _text(fields.get("name", ""), f"{field}.name", 31)
    if name == DONE or not _PHASE.fullmatch(name):
        hint = "use letters, digits, '-' and '_', but not: done"
        raise refused("phases", f"{field}.name", f"{shown(name)} is not a name for a phase", hint)
    devices = Size(*size(fields.get("devices", "all"), f"{field}.devices"))
    if devices.number < 1:
        raise refused("phases", f"{field}.devices", "a phase of nobody proves nothing", "leave the phase out")
    successes = percent(fields.get("successes", "100%"), f"{field}.successes")
    if successes < 1:
        raise refused("phases", f"{field}.successes", "0% proves nothing", "write 1% to 100%")
    failures = fields.get("failures", "2%" if devices == ALL else 0)
    return Phase(
        name=name,
        devices=devices,
        soak=duration(fields.get("soak", 0), f"{field}.soak"),
        gate=_flag(fields.get("gate", False), f"{field}.gate"),
        failures=Size(*size(failures, f"{field}.failures")),
        successes=successes,
        max_parallel=_number(fields.get("max_parallel", 0), f"{field}.max_parallel", 0, 10**9),
    )


def _windows(given: Any) -> tuple[Window, ...]:
    windows = []
    for index, each in enumerate(_list(given, "window", MOST_WINDOWS)):
        field = f"window[{index}]"
        fields = _fields(each, field, ("days", "from", "to"))
        if missing := next((name for name in ("from", "to") if name not in fields), None):
            raise refused("window", f"{field}.{missing}", "is missing", '{days: [mon], from: "02:00", to: "04:00"}')
        days = _list(fields.get("days", list(DAYS)), f"{field}.days", len(DAYS))
        if not days or not all(day in DAYS for day in days):
            raise refused("window", f"{field}.days", f"{shown(days)} are no days", f"there are: {', '.join(DAYS)}")
        start = minute(fields["from"], f"{field}.from")
        windows.append(Window(frozenset(map(DAYS.index, days)), start % (24 * 60), minute(fields["to"], f"{field}.to")))
    return tuple(windows)


def _networks(given: Any) -> tuple[str, ...]:
    if given is None:
        return NETWORKS
    listed = _list(given, "network", len(NETWORKS))
    if not listed or not all(each in NETWORKS for each in listed):
        raise refused("network", "network", f"{shown(listed)} are no networks", f"there are: {', '.join(NETWORKS)}")
    return tuple(each for each in NETWORKS if each in listed)


def _steps(given: Any, version: str) -> tuple[Step, ...]:
    steps = []
    for index, each in enumerate(_list(given, "steps", MOST_STEPS)):
        field = f"steps[{index}]"
        fields = _fields(each, field, ("below", "through"))
        for name in ("below", "through"):
            if name not in fields:
                raise refused("steps", f"{field}.{name}", "is missing", '{below: "1.5.0", through: "1.5.0"}')
        step = Step(*(_named(check_version, fields[name], f"{field}.{name}") for name in ("below", "through")))
        if key(step.through) < key(step.below):
            what = f"a device that committed {step.through} is still below {step.below}"
            raise refused("steps", f"{field}.through", what, "go through the version of `below` or a later one")
        if key(step.through) >= key(version):
            what = f"{step.through} is not before the plan's own version {version}"
            raise refused("steps", f"{field}.through", what, "leave this step out")
        steps.append(step)
    return tuple(sorted(steps, key=lambda step: key(step.through)))


def _named(check: Callable[[str], str], given: Any, field: str) -> str:
    if not isinstance(given, str):
        number = isinstance(given, int | float)
        raise refused("type", field, f"{shown(given)} is not text", "put it into quotes" if number else "write text")
    try:
        return check(given)
    except BundleError as error:
        raise refused("name", field, error.message, error.hint) from None


def _fields(given: Any, field: str, known: Sequence[str]) -> Mapping[str, Any]:
    fields = _mapping(given, field or "the plan")
    if strange := next((name for name in fields if name not in known), None):
        where = f"{field}.{strange[:80]}" if field else strange[:80]
        raise refused("unknown_field", where, "is not known", f"there are: {', '.join(known)}")
    return fields


def _mapping(given: Any, field: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        hint = "see: beamfleet rollout start --help"
        raise refused("type", field, f"{shown(given)} is no mapping of names to values", hint)
    return given


def _list(given: Any, field: str, most: int) -> list[Any]:
    if given is None:
        return []
    if not isinstance(given, list | tuple):
        raise refused("type", field, f"{shown(given)} is not a list", "write [one, two]")
    if len(given) > most:
        raise refused("too_many", field, f"{len(given)} entries are more than {most}", "use labels for larger groups")
    return list(given)


def _number(given: Any, field: str, least: int, most: int) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= most:
        raise refused("type", field, f"{shown(given)} is not a number from {least} to {most}", "write a whole number")
    return given


def _flag(given: Any, field: str) -> bool:
    if not isinstance(given, bool):
        raise refused("type", field, f"{shown(given)} is neither true nor false", "write true or false")
    return given


def _text(given: Any, field: str, most: int) -> str:
    if not isinstance(given, str):
        raise refused("type", field, f"{shown(given)} is not text", "put it into quotes")
    if len(given) > most:
        raise refused("too_many", field, f"it is longer than {most} characters", "shorten it")
    return given
