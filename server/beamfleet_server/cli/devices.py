"""`beamfleet device`: who is in the fleet, what each one runs, and its labels."""

from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import quote

import typer

from beamfleet_server.cli import vitals
from beamfleet_server.cli.consent import ask
from beamfleet_server.cli.labels import parse_changes, selector, show_labels
from beamfleet_server.cli.options import DeviceId, Printed, Selector, examples, group
from beamfleet_server.cli.output import Column, Format, Item, harmless
from beamfleet_server.cli.quantities import show_bytes, show_since, show_time
from beamfleet_server.cli.session import Session

app = group("See devices, what they run and how they are.")

_STYLES = {
    "online": "green",
    "offline": "red",
    "online, CLONE": "red",
    "offline, CLONE": "red",
    "replaced": "dim",
    "decommissioned": "dim",
    "committed": "green",
    "trial": "cyan",
    "reverted": "red",
    "fallback": "red",
}
_AT_REST = frozenset({"idle", "committed"})
HISTORY = 20
"""Updates and restarts of a device that are shown."""


@app.command("list", epilog=examples("beamfleet device list", "beamfleet device list -l site=berlin -o json"))
def list_devices(
    ctx: typer.Context,
    labels: Selector = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those that were decommissioned or replaced.")] = False,
    output: Printed = Format.TABLE,
) -> None:
    """List devices: online or not, the release each one really runs, where an update stands, and how well each is."""
    session = Session.of(ctx, output)
    chosen = selector(labels or ())
    query = {"selector": chosen, "retired": "true" if everything else ""}
    devices = list(session.client.pages("/devices", query))
    empty = (
        f"no device has the labels {chosen}"
        if chosen
        else "no device yet; `beamfleet flash --root DIR --id ID` makes one"
    )
    session.output.items(devices, _columns(datetime.now(UTC)), "id", empty)


@app.command("show", epilog=examples("beamfleet device show gw-1", "beamfleet device show gw-1 -o yaml"))
def show(ctx: typer.Context, device: DeviceId, output: Printed = Format.TABLE) -> None:
    """Show all that is known of a device: release, slots, update, health and its reasons, memory over time, inventory,
    and the history of its updates and restarts."""
    session = Session.of(ctx, output)
    path = f"/devices/{quote(device, safe='')}"
    shown = session.client.get(path)
    samples = session.client.get(f"{path}/samples")
    session.output.item({**shown, "samples": samples}, _facts(shown, samples, datetime.now(UTC)), "id")
    if not session.output.for_people:
        return
    query = {"device": device, "kind": ("update", "restart"), "newest": "true", "limit": HISTORY}
    if history := session.client.get("/events", query)["items"]:
        session.output.blank()
        session.output.items(history[::-1], _HISTORY, "id", "")


@app.command(
    "label", epilog=examples("beamfleet device label gw-1 site=berlin rack=2", "beamfleet device label gw-1 rack-")
)
def label(
    ctx: typer.Context,
    device: DeviceId,
    changes: Annotated[
        list[str], typer.Argument(metavar="KEY=VALUE|KEY-...", help="Labels to set, or with a final dash to remove.")
    ],
    output: Printed = Format.TABLE,
) -> None:
    """Set or remove labels of a device."""
    session = Session.of(ctx, output)
    changed = session.client.patch(f"/devices/{device}", {"labels": parse_changes(changes)})
    session.output.done(changed, f"{device}: {show_labels(changed['labels']) or 'no labels'}", "id")


@app.command("delete", epilog=examples("beamfleet device delete gw-1 --yes"))
def delete(
    ctx: typer.Context,
    device: DeviceId,
    sure: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    output: Printed = Format.TABLE,
) -> None:
    """Forget a device: reports, events, labels, tokens. To keep its history, decommission it instead.

    Its certificates are refused from now on and its session ends. The audit keeps that it was done, and by whom.
    """
    session = Session.of(ctx, output)
    if not sure:
        ask(session, f"delete {harmless(device)} and all that is known of it?")
    ended = session.client.delete(f"/devices/{quote(device, safe='')}")
    session.output.done(ended, f"{device} is deleted, and may not connect any more", "ended")


def release(device: Item) -> str:
    """What a device runs: `sensor-gateway 1.1.0`, or nothing."""
    return f"{device['product']} {device['version']}" if device.get("product") else ""


def update(device: Item) -> str:
    """The update under way or the one that went wrong: `1.1.0 downloading 43 %`, `1.2.0 reverted: crash`."""
    now = device.get("update")
    if not now or now["phase"] in _AT_REST:
        return ""
    text = f"{now.get('version') or ''} {now['phase']}".strip()
    if now["phase"] == "downloading" and now.get("total"):
        text += f" {100 * now['done'] // now['total']} %"
    return f"{text}: {now['reason']}" if now.get("reason") else text


def presence(device: Item) -> str:
    if device.get("retired"):
        return "replaced" if device["replaced_by"] else "decommissioned"
    return ("online" if device["online"] else "offline") + (", CLONE" if device.get("clone") else "")


def _columns(now: datetime) -> tuple[Column, ...]:
    return (
        Column("DEVICE", lambda device: device["id"]),
        Column("STATUS", presence, lambda device: _STYLES[presence(device)]),
        Column("RELEASE", release),
        Column("PHASE", lambda device: device["phase"], lambda device: _STYLES.get(device["phase"] or "", "")),
        Column("UPDATE", update),
        Column("HEALTH", _verdict, lambda device: vitals.style(_verdict(device))),
        Column("STARTS", lambda device: device["starts"], right=True),
        Column("CAUSE", lambda device: device["cause"]),
        Column("SEEN", lambda device: show_since(device["last_seen"], now)),
        Column("LABELS", lambda device: show_labels(device["labels"])),
    )


def _verdict(device: Item) -> str:
    return str((device["health"] or {}).get("verdict", ""))


def _facts(device: Item, samples: Item, now: datetime) -> list[tuple[str, object]]:
    inventory = device.get("inventory") or {}
    certificate = device.get("certificate") or {}
    health = device.get("health") or {}
    facts: list[tuple[str, object]] = [
        ("device", device["id"]),
        ("status", f"{presence(device)}, seen {show_since(device['last_seen'], now)}"),
        ("labels", show_labels(device["labels"])),
        ("release", release(device)),
        ("phase", device["phase"]),
        ("update", update(device)),
        ("slot", device["slot"]),
        ("previous", device.get("previous")),
        ("failed", device.get("failed")),
        ("rollout", device.get("rollout")),
        ("starts", f"{device['starts']}, last cause {device['cause'] or 'unknown'}" if device["starts"] else "none"),
        ("power losses", device.get("power_losses")),
        ("stopped", "by an operator" if device.get("stopped") else ""),
        ("health", _health(health, now)),
        *(("", vitals.show_reason(reason)) for reason in health.get("reasons", ())),
        ("memory used", vitals.show_memory(samples)),
        *vitals.sections(health),
        ("enrolled", show_time(device["enrolled"])),
        ("certificate", _certificate(certificate)),
        ("denied", _denial(device.get("denial"))),
        ("pinned", device.get("pinned")),
        ("out of service", _retirement(device)),
        ("replaces", device.get("replaces")),
        ("clone", _clone(device.get("clone"))),
        ("agent", _words(device, "agent", "profile")),
        ("system", " ".join(str(inventory[key]) for key in ("os", "kernel") if inventory.get(key))),
        ("machine", _words(inventory, "arch", "libc", "libc_version", "hardware")),
        ("network", _words(inventory, "network", "timezone")),
        ("python", inventory.get("python")),
        ("memory", _size(inventory, "memory_bytes")),
        ("filesystem", _filesystem(device, inventory)),
    ]
    return facts


def _health(health: Item, now: datetime) -> str:
    if not health:
        return ""
    return f"{health['verdict']}, said {show_since(health['time'], now)}" if health["time"] else str(health["verdict"])


def _certificate(certificate: Item) -> str:
    if not certificate:
        return ""
    revoked, until = show_time(certificate["revoked"]), f"until {show_time(certificate['not_after'])}"
    until = f"REVOKED {revoked}" if revoked else until
    return f"serial {certificate['serial']}, {until}, authority {certificate['authority']}"


def _denial(denial: Item | None) -> str:
    if not denial:
        return ""
    return f"{denial['reason']}, until {show_time(denial['until']) or 'somebody decides'}"


def _clone(seen: str | None) -> str:
    return f"two machines were seen with this identity, last {show_time(seen)}" if seen else ""


def _retirement(device: Item) -> str:
    if not device.get("retired"):
        return ""
    how = f"replaced by {device['replaced_by']}" if device["replaced_by"] else "decommissioned"
    return f"{how}, {show_time(device['retired'])}, by {device['retired_by']}"


def _words(inventory: Item, *keys: str) -> str:
    return " ".join(str(inventory[key]) for key in keys if inventory.get(key))


def _size(inventory: Item, key: str) -> str:
    size = inventory.get(key)
    return show_bytes(size) if isinstance(size, int) else ""


def _filesystem(device: Item, inventory: Item) -> str:
    free = _size(inventory, "free_bytes")
    parts = [str(inventory.get("filesystem") or ""), f"{free} free" if free else ""]
    if device.get("unsafe_filesystem"):
        parts.append("NOT SAFE against power cuts (--allow-unsafe-filesystem)")
    return ", ".join(part for part in parts if part)


def _happened(event: Item) -> str:
    """What an update came to, or which start of the release it was."""
    data = event["data"]
    if event["kind"] == "update":
        return f"{data.get('product', '')} {data.get('version', '')} {data.get('phase', '')}".strip()
    return f"start {data['starts']}" if "starts" in data else ""


def _why(event: Item) -> str:
    """What a release left behind that ended by itself, or what the device says."""
    evidence = event["data"].get("evidence")
    if not isinstance(evidence, dict):
        return str(event["detail"])
    return evidence.get("slogan") or evidence.get("status") or str(event["detail"])


_HISTORY = (
    Column("TIME", lambda event: show_time(event["time"])),
    Column("EVENT", lambda event: event["kind"]),
    Column("WHAT", _happened),
    Column("CAUSE", lambda event: event["cause"]),
    Column("WHY", _why),
)
