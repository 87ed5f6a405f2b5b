"""`beamfleet device`: who is in the fleet, what each one runs, and its labels."""

from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import quote

import typer

from beamfleet_server.cli.labels import parse_changes, selector, show_labels
from beamfleet_server.cli.options import DeviceId, Printed, Selector, examples, group
from beamfleet_server.cli.output import Column, Format, Item, harmless
from beamfleet_server.cli.quantities import show_bytes, show_since
from beamfleet_server.cli.session import Session

app = group("See devices, what they run and how they are.")

_STYLES = {
    "online": "green",
    "offline": "red",
    "committed": "green",
    "trial": "cyan",
    "reverted": "red",
    "fallback": "red",
}
_AT_REST = frozenset({"idle", "committed"})


@app.command("list", epilog=examples("beamfleet device list", "beamfleet device list -l site=berlin -o json"))
def list_devices(ctx: typer.Context, labels: Selector = None, output: Printed = Format.TABLE) -> None:
    """List devices: online or not, the release each one really runs, and where an update stands."""
    session = Session.of(ctx, output)
    chosen = selector(labels or ())
    devices = list(session.client.pages("/devices", {"selector": chosen}))
    empty = (
        f"no device has the labels {chosen}"
        if chosen
        else "no device yet; `beamfleet flash --root DIR --device ID` makes one"
    )
    session.output.items(devices, _columns(datetime.now(UTC)), "id", empty)


@app.command("show", epilog=examples("beamfleet device show gw-1", "beamfleet device show gw-1 -o yaml"))
def show(ctx: typer.Context, device: DeviceId, output: Printed = Format.TABLE) -> None:
    """Show all that is known of a device: release, slots, update, health, inventory, newest events."""
    session = Session.of(ctx, output)
    shown = session.client.get(f"/devices/{device}")
    session.output.item(shown, _facts(shown, datetime.now(UTC)), "id")
    if session.output.for_people and shown.get("history"):
        session.output.blank()
        session.output.items(shown["history"], _HISTORY, "id", "")


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
    """Delete a device with everything that is kept of it: reports, events, labels, tokens.

    Its certificates are refused from now on and its session ends. The audit keeps that it was done, and by whom.
    """
    session = Session.of(ctx, output)
    if not sure and not typer.confirm(f"delete {harmless(device)} and all that is known of it?", err=True):
        raise typer.Abort
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
    return "online" if device["online"] else "offline"


def _columns(now: datetime) -> tuple[Column, ...]:
    return (
        Column("DEVICE", lambda device: device["id"]),
        Column("STATUS", presence, lambda device: _STYLES[presence(device)]),
        Column("RELEASE", release),
        Column("PHASE", lambda device: device["phase"], lambda device: _STYLES.get(device["phase"] or "", "")),
        Column("UPDATE", update),
        Column("HEALTH", lambda device: (device["health"] or {}).get("verdict")),
        Column("STARTS", lambda device: device["starts"], right=True),
        Column("CAUSE", lambda device: device["cause"]),
        Column("SEEN", lambda device: show_since(device["last_seen"], now)),
        Column("LABELS", lambda device: show_labels(device["labels"])),
    )


def _facts(device: Item, now: datetime) -> list[tuple[str, object]]:
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
        ("health", f"{health['verdict']}, {show_since(health['time'], now)}" if health else ""),
        ("enrolled", device["enrolled"]),
        ("certificate", f"serial {certificate['serial']}, until {certificate['not_after']}" if certificate else ""),
        ("agent", _words(device, "agent", "profile")),
        ("system", " ".join(str(inventory[key]) for key in ("os", "kernel") if inventory.get(key))),
        ("machine", _words(inventory, "arch", "libc", "libc_version", "hardware")),
        ("python", inventory.get("python")),
        ("memory", _size(inventory, "memory_bytes")),
        ("filesystem", _filesystem(device, inventory)),
    ]
    return facts


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


_HISTORY = (
    Column("TIME", lambda event: event["time"]),
    Column("EVENT", lambda event: event["kind"]),
    Column("CAUSE", lambda event: event.get("cause")),
    Column("DETAIL", lambda event: event.get("detail")),
)
