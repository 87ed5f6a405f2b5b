"""`beamfleet device diagnose` and `beamfleet logs`: what a device has to say for itself, asked for now.

Evidence comes sealed and is opened here, where the key is; a log comes as lines, redacted on the device.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from beamfleet_bundles.errors import BeamfleetError

from beamfleet_server.cli import client as api
from beamfleet_server.cli.client import Client
from beamfleet_server.cli.destinations import check_new, check_new_folder
from beamfleet_server.cli.devices import app
from beamfleet_server.cli.errors import DEADLINE, CommandError, RemoteError
from beamfleet_server.cli.evidence_keys import KeyFile, OutFolder, load_key, show, unsealed
from beamfleet_server.cli.options import DeviceId, Printed, Timeout, examples
from beamfleet_server.cli.output import Format, Item
from beamfleet_server.cli.quantities import parse_duration, show_bytes
from beamfleet_server.cli.session import Session
from beamfleet_server.cli.signers import PassphraseFile

PAUSE_S = 1.0
PATIENCE_S = 120.0
"""For what has begun: a restart of the server is waited out."""
AGAIN_S = 1.0
LONGEST_AGAIN_S = 30.0
_ID = re.compile(r"[0-9a-f]{16}")
"""Becomes a part of a file's name."""


@app.command(
    "diagnose",
    epilog=examples(
        "beamfleet device diagnose gw-1",
        "beamfleet device diagnose gw-1 --out ./gw-1 --key stick/anna.key",
        "beamfleet device diagnose gw-1 --sealed --out gw-1.sealed",
    ),
)
def diagnose(
    ctx: typer.Context,
    device: DeviceId,
    out: OutFolder = None,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    sealed: Annotated[
        bool, typer.Option("--sealed", help="Do not open it: --out is a new file then. Else DEVICE-ID.sealed.")
    ] = False,
    timeout: Timeout = "15m",
    output: Printed = Format.TABLE,
) -> None:
    """Fetch everything that helps to see why: crash dump, logs, journal, state and facts of a device.

    The device seals it for the keys of `keys evidence list`; the server keeps the newest five of each device and can
    read none. Opened here with one of these keys, into a new directory. At most 16 MB go over the device's line.
    """
    session = Session.of(ctx, output)
    limit_s, place = parse_duration(timeout), f"/devices/{quote(device, safe='')}/evidence"
    if sealed:
        check_new(out or Path(f"{device}-{'0' * 16}.sealed"))
    else:
        check_new_folder(out or Path(f"{device}-{'0' * 16}"))
    private = load_key(key, passphrase_file) if key and not sealed else None
    asked = session.client.post(place, {})
    if not _ID.fullmatch(str(asked.get("id"))) or asked.get("device") != device:
        raise CommandError("server.malformed", "the server asked for other evidence", "is this the operators' address?")
    session.output.note(f"{device} gathers it, sealed for {', '.join(each['name'] for each in asked['recipients'])}")
    if not _wait(session, place, asked, limit_s):
        hint = f"it may come yet: GET {place}/{asked['id']}"
        session.output.problem(CommandError("evidence.late", f"not all has come of {device} in {timeout}", hint))
        raise typer.Exit(DEADLINE)
    data = session.client.get_bytes(f"{place}/{asked['id']}")
    if data is None:
        raise CommandError("evidence.archive", "the server does not have it any more", "ask for it again")
    if sealed:
        _keep(session, asked, data, out)
        return
    try:
        opened = unsealed(session, data, private, passphrase_file, out, of=(device, asked["id"]))
    except BeamfleetError as error:
        if error.code not in ("evidence.key_missing", "sealing.other_key", "trust.key_passphrase"):
            raise
        _keep(session, asked, data, None)
        raise
    show(session, opened)


def _keep(session: Session, asked: Item, data: bytes, out: Path | None) -> None:
    path = out or Path(f"{asked['device']}-{asked['id']}.sealed")
    with path.open("xb") as file:
        file.write(data)
    item = {"id": asked["id"], "device": asked["device"], "sealed": str(path), "bytes": len(data)}
    sentence = f"{path} is the sealed evidence of {asked['device']}, {show_bytes(len(data))}"
    session.output.done(item, sentence, "id", f"beamfleet keys evidence open {path} --key FILE")


def _wait(
    session: Session,
    place: str,
    asked: Item,
    limit_s: float,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Whether it has come within the time; what the device says went wrong is raised."""
    end, told = clock() + limit_s, 0
    while True:
        items = session.client.get(place, patience_s=PATIENCE_S)["items"]
        held = next((each for each in items if each["id"] == asked["id"]), None)
        if held is not None and held["state"] == "complete":
            return True
        if held is not None and held["bytes"] > told:
            told = held["bytes"]
            session.output.note(f"{show_bytes(told)} have come")
        _raise_failure(session.client, asked)
        if clock() >= end:
            return False
        pause(PAUSE_S)


def _raise_failure(client: Client, asked: Item) -> None:
    query = {"device": asked["device"], "kind": ["error"], "newest": "true", "limit": 20}
    for event in client.get("/events", query, patience_s=PATIENCE_S)["items"]:
        if event["data"].get("command") == asked["id"]:
            raise RemoteError(event["cause"], f"{asked['device']}: {event['detail']}", "", 409)


def logs(
    ctx: typer.Context,
    device: DeviceId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="And what comes, until interrupted.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", metavar="N", min=0, max=1000, help="How many of the newest.")
    ] = 100,
    output: Printed = Format.TABLE,
) -> None:
    """Show what a device's release prints, or follow it live. Passwords, tokens and keys are redacted on the device.

    At most 20 lines and 8 kB a second; a line says how many were left out. With -o json one object a line.
    """
    session = Session.of(ctx, output)
    place = f"/devices/{quote(device, safe='')}/logs"
    again_s, patience_s = 0.0, api.PATIENCE_S
    while True:
        query = {"lines": lines, "follow": "true" if follow else "false"}
        end: Item = {}
        for message in _messages(session.client, place, query, patience_s):
            again_s, patience_s = 0.0, PATIENCE_S
            if message["missed"]:
                session.output.note(f"{message['missed']} lines were left out")
            for line in message["lines"]:
                session.output.line({"device": device, "line": line}, line, "line")
            end = message
        if end.get("why"):
            raise CommandError("server.timeout", f"{device}: {end['why']}", f"beamfleet device show {device}")
        if not follow:
            return
        lines = 0  # it went on for its time, or the connection broke: what comes now is new
        again_s = min(max(AGAIN_S, 2 * again_s), LONGEST_AGAIN_S)
        time.sleep(again_s)


def _messages(client: Client, place: str, query: dict[str, Any], patience_s: float) -> Iterator[Item]:
    for line in client.lines(place, query, patience_s=patience_s):
        if line.startswith("data: "):
            try:
                message = json.loads(line.removeprefix("data: "))
            except ValueError:
                message = None
            if not isinstance(message, dict) or not isinstance(message.get("lines"), list):
                raise CommandError("server.malformed", "the stream of lines is none", "is this the operators' address?")
            yield message


LOGS_EXAMPLES = examples(
    "beamfleet logs gw-1", "beamfleet logs gw-1 --follow --lines 20", "beamfleet logs gw-1 -f -o json"
)
