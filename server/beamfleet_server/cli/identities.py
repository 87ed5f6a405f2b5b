"""The commands of `beamfleet device` about who is a device of this fleet: letting in, providing for, shutting out."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer
from beamfleet_bundles import durable
from beamfleet_bundles.names import check_device

from beamfleet_server.cli.consent import ask
from beamfleet_server.cli.devices import app
from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.flash_manifest import read_manifest
from beamfleet_server.cli.labels import parse_labels
from beamfleet_server.cli.options import DeviceId, Labels, Printed, device_id, examples
from beamfleet_server.cli.output import Column, Format, Item, harmless
from beamfleet_server.cli.quantities import show_since, show_time
from beamfleet_server.cli.session import Session
from beamfleet_server.errors import ServerError

__all__ = ("app",)

NewId = Annotated[str, typer.Argument(metavar="DEVICE", help="The id that a device asks for.", callback=device_id)]
Fingerprint = Annotated[
    str | None,
    typer.Option("--fingerprint", metavar="SHA256", help="The key that is meant, as the device shows it."),
]
Replace = Annotated[bool, typer.Option("--replace", help="Also for an enrolled device, whose certificates then end.")]


@app.command("pending", epilog=examples("beamfleet device pending", "beamfleet device pending --all -o json"))
def pending(
    ctx: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Also those that were accepted or rejected.")] = False,
    output: Printed = Format.TABLE,
) -> None:
    """List devices without a token that ask to be let in, where the server allows that (enrolment_approval)."""
    session = Session.of(ctx, output)
    query = {} if everything else {"state": "pending"}
    waiting = session.client.get("/enrolments", query)["items"]
    session.output.items(waiting, _columns(datetime.now(UTC)), "device", "nobody waits")


@app.command(
    "accept",
    epilog=examples(
        "beamfleet device accept gw-9",
        "beamfleet device accept gw-9 --fingerprint 0d8f...c3  # as `beamfleet-agent status` shows it there",
    ),
)
def accept(
    ctx: typer.Context,
    device: NewId,
    fingerprint: Fingerprint = None,
    replace: Replace = False,
    sure: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    output: Printed = Format.TABLE,
) -> None:
    """Let a device in that asks without a token.

    Anybody can ask for any id: compare the fingerprint with the one that `beamfleet-agent status` shows on the device.
    """
    session = Session.of(ctx, output)
    if fingerprint is None:
        fingerprint = _only_key(session, device)
        if not sure:
            ask(session, f"let in {harmless(device)} with the key {harmless(fingerprint)}?")
    wish = {"fingerprint": fingerprint, "replace": replace}
    accepted = session.client.post(f"/enrolments/{quote(device, safe='')}/accept", wish)
    session.output.done(accepted, f"{device} is let in; it gets its certificate when it asks next", "device")


@app.command("reject", epilog=examples("beamfleet device reject gw-9"))
def reject(ctx: typer.Context, device: NewId, fingerprint: Fingerprint = None, output: Printed = Format.TABLE) -> None:
    """Refuse a device that asks without a token: this key, or all that ask for the id."""
    session = Session.of(ctx, output)
    path = f"/enrolments/{quote(device, safe='')}/reject"
    rejected = session.client.post(path, {"fingerprint": fingerprint})
    session.output.done(rejected, f"{device} is rejected", "device")


@app.command(
    "provision",
    epilog=examples(
        "beamfleet device provision gw-1 gw-2 --out identities",
        "beamfleet device provision gw-3 -l site=berlin --out identities -o json",
        "beamfleet device provision --from devices.csv --prefix gw- --out identities",
    ),
)
def provision(
    ctx: typer.Context,
    devices: Annotated[list[str] | None, typer.Argument(metavar="DEVICE...", help="Ids of new devices.")] = None,
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where a directory for each one is made.")],
    manifest: Annotated[
        Path | None, typer.Option("--from", metavar="CSV", help="The devices of a manifest for `flash --batch`.")
    ] = None,
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="TEXT", help="With --from: how ids begin that end with the serial.")
    ] = "",
    labels: Labels = None,
    replace: Replace = False,
    output: Printed = Format.TABLE,
) -> None:
    """Make keys and certificates here, for devices that cannot enrol where they are.

    DIR/DEVICE holds key.pem, cert.pem and ca.pem (0600), for `beamfleet flash --cert FILE --key FILE`; of a line with
    a serial number it is DIR/SERIAL, for `beamfleet flash --batch CSV --pre-made DIR`. Give each to its device only,
    and keep no copy. Safe to repeat: the key of a directory is used again, and what has a certificate is left alone.
    """
    session = Session.of(ctx, output)
    given = parse_labels(labels or ())
    if bool(devices) == (manifest is not None):
        raise CommandError("usage.identity", "identities for whom?", "DEVICE..., or --from CSV")
    wanted = [(device, device, given) for device in devices or ()]
    if manifest:
        lines = read_manifest(manifest, targets=False)
        wanted = [(line.id_with(prefix), line.serial or line.id, given | dict(line.labels)) for line in lines]
    for device, _, _ in wanted:
        check_device(device)
    made = [_provide(session, device, out / name, own, replace) for device, name, own in wanted]
    session.output.items(made, _PROVISIONED, "device", "")


@app.command(
    "revoke",
    epilog=examples("beamfleet device revoke gw-1 --yes", "beamfleet device revoke gw-1 --serial 5f0c9e"),
)
def revoke(
    ctx: typer.Context,
    device: DeviceId,
    serial: Annotated[
        str | None, typer.Option("--serial", metavar="HEX", help="Only the certificate of this serial.")
    ] = None,
    sure: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    output: Printed = Format.TABLE,
) -> None:
    """Shut a device out: its certificates are refused, and its session ends within seconds.

    What is known of it stays. It comes back with a new token only (`beamfleet token create DEVICE --replace`).
    """
    session = Session.of(ctx, output)
    if not sure and serial is None:
        ask(session, f"shut out {harmless(device)}?")
    revoked = session.client.post(f"/devices/{quote(device, safe='')}/revoke", {"serial": serial})
    count = len(revoked["serials"])
    sentence = f"{device}: {count} certificate{'' if count == 1 else 's'} revoked"
    session.output.done(revoked, sentence, "device")


@app.command("accept-clone", epilog=examples("beamfleet device accept-clone gw-1"))
def accept_clone(ctx: typer.Context, device: DeviceId, output: Printed = Format.TABLE) -> None:
    """Say that all is well with a device whose identity was seen on two machines, and take it again.

    If it was copied instead, revoke it and enrol the right one again.
    """
    session = Session.of(ctx, output)
    accepted = session.client.post(f"/devices/{quote(device, safe='')}/accept-clone", {})
    session.output.done(accepted, f"{device} is taken again", "id")


def _only_key(session: Session, device: str) -> str:
    waiting = session.client.get("/enrolments", {"state": "pending"})["items"]
    keys = [str(each["fingerprint"]) for each in waiting if each["device"] == device]
    if not keys:
        raise ServerError("enrolment.unknown", f"{device} does not wait", "see: beamfleet device pending")
    if len(keys) > 1:
        what = f"{len(keys)} keys ask to be {device}"
        raise ServerError("enrolment.ambiguous", what, "--fingerprint SHA256, as the device shows it")
    return keys[0]


def _provide(session: Session, device: str, directory: Path, labels: dict[str, str], replace: bool) -> Item:
    from beamfleet_bundles import pki

    key_file, certificate_file = directory / "key.pem", directory / "cert.pem"
    if certificate_file.exists() and not replace:
        facts = pki.read_certificate(pki.load_certificate(certificate_file.read_bytes()))
        until = datetime.fromtimestamp(facts.not_after, UTC).isoformat()
        return {"device": device, "directory": str(directory), "serial": facts.serial, "not_after": until}
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    key = pki.load_key(key_file) if key_file.exists() else pki.create_key(key_file)
    request = pki.encode_body(pki.make_request(key, device)).decode()
    wish = {"request": request, "labels": labels, "replace": replace}
    issued = session.client.post(f"/devices/{quote(device, safe='')}/certificate", wish)
    durable.replace(directory / "ca.pem", issued["authorities"].encode(), 0o600)
    durable.replace(certificate_file, issued["certificate"].encode(), 0o600)
    told = {key: issued[key] for key in ("device", "serial", "not_after")}
    return {**told, "directory": str(directory)}


def _columns(now: datetime) -> tuple[Column, ...]:
    return (
        Column("DEVICE", lambda request: request["device"]),
        Column("STATE", lambda request: request["state"]),
        Column("FINGERPRINT", lambda request: request["fingerprint"]),
        Column("FROM", lambda request: request["address"]),
        Column("ASKED", lambda request: show_since(request["asked"], now)),
        Column("ENROLLED ALREADY", lambda request: request["known"]),
        Column("DECIDED BY", lambda request: request["decided_by"]),
    )


_PROVISIONED = (
    Column("DEVICE", lambda made: made["device"]),
    Column("DIRECTORY", lambda made: made["directory"]),
    Column("SERIAL", lambda made: made["serial"]),
    Column("UNTIL", lambda made: show_time(made["not_after"])),
)
