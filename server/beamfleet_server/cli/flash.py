"""`beamfleet flash`: makes a directory a device of this fleet.

It asks the server where its listeners are, which CA and which TUF root the device has to trust, and for a one-time
token; then it hands everything to `beamfleet-agent setup`, a child process, on its stdin: no secret is ever in an
argument. The agent's setup lays the files down; this module writes nothing below the root.
"""

import base64
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from beamfleet_bundles.names import check_device, check_hardware

from beamfleet_server.cli.errors import CommandError, RemoteError
from beamfleet_server.cli.files import read_file, read_token
from beamfleet_server.cli.labels import parse_labels
from beamfleet_server.cli.options import Labels, Printed, examples
from beamfleet_server.cli.output import Format
from beamfleet_server.cli.session import Session
from beamfleet_server.cli.tokens import Replace, create_token

EXAMPLES = examples(
    "beamfleet flash --root device-1 --id gw-1 -l site=berlin --single-user",
    "beamfleet flash --root /mnt/card --id gw-2 --env-file gw-2.env",
    "beamfleet flash --root /mnt/card --id gw-3 --approval",
    "beamfleet flash --root /mnt/card --id gw-4 --cert made/gw-4/cert.pem --key made/gw-4/key.pem",
)
APP = "main"
IDENTITY = Path("var/lib/beamfleet/identity")
CERTIFICATES = ("pair.pem", "cert.pem")
TOKEN_LIFE_S = 3600
SETUP_TIMEOUT_S = 300
_ANYWHERE = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 (compared, not bound)


class Network(StrEnum):
    """The classes of network that a rollout's plan can ask for."""

    WIRED = "wired"
    WIFI = "wifi"
    CELLULAR = "cellular"
    UNKNOWN = "unknown"


class Profile(StrEnum):
    """How much a device may say."""

    WIRED = "wired"
    METERED = "metered"


def flash(
    ctx: typer.Context,
    root: Annotated[Path, typer.Option("--root", metavar="DIR", help="The root directory of the device.")],
    device: Annotated[str, typer.Option("--id", metavar="ID", help="Small letters, digits and dashes.")],
    labels: Labels = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", metavar="FILE", help="A token from `token create`; else one is made.")
    ] = None,
    replace: Replace = False,
    approval: Annotated[
        bool, typer.Option("--approval", help="Without a token: the device waits for `beamfleet device accept`.")
    ] = False,
    certificate: Annotated[
        Path | None, typer.Option("--cert", metavar="FILE", help="A certificate from `device provision`; with --key.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="The key of --cert; both stay where they are.")
    ] = None,
    hardware: Annotated[
        str, typer.Option("--hardware", metavar="BOARD", help="Also takes what was built for this --hardware.")
    ] = "",
    network: Annotated[
        Network | None, typer.Option("--network", help="How it is connected, where it cannot see that itself.")
    ] = None,
    environment: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="KEY=VALUE", help="For the release's environment (app.env); repeat for more."),
    ] = None,
    env_file: Annotated[
        Path | None,
        typer.Option("--env-file", metavar="FILE", help="KEY=VALUE lines for app.env; the place for secrets."),
    ] = None,
    single_user: Annotated[
        bool, typer.Option("--single-user", help="Everything runs as you: a device in a directory.")
    ] = False,
    allow_unsafe_filesystem: Annotated[
        bool, typer.Option("--allow-unsafe-filesystem", help="Also where a power cut may lose files. For trials.")
    ] = False,
    trial_s: Annotated[
        int, typer.Option("--trial-s", metavar="N", min=1, help="Seconds that a new release has to stay healthy.")
    ] = 30,
    trial_deadline_s: Annotated[
        int | None,
        typer.Option(
            "--trial-deadline-s",
            metavar="N",
            min=2,
            help="Seconds after which a trial reverts; else chosen by the trial.",
        ),
    ] = None,
    profile: Annotated[
        Profile, typer.Option("--profile", help="How much it may say: metered where each byte is paid for.")
    ] = Profile.WIRED,
    health_interval_s: Annotated[
        int,
        typer.Option(
            "--health-interval", metavar="N", min=0, help="Seconds between health reports; 0: as the profile has it."
        ),
    ] = 0,
    output: Printed = Format.TABLE,
) -> None:
    """Make a directory a device of this fleet.

    Lays down agent, launcher, configuration and a one-time token. The device makes its own key and enrols by itself
    when it starts. Safe to repeat: an enrolled device keeps its identity, its releases and its data.
    """
    from beamfleet_server.cli.signing import Signing

    session = Session.of(ctx, output)
    check_device(device)
    if hardware:
        check_hardware(hardware)
    variables = _variables(environment or [], env_file)
    wanted = parse_labels(labels or ())
    if wanted and (token_file or approval):
        raise CommandError(
            "usage.label",
            "labels belong to the token",
            "give them to `beamfleet token create`, or to `beamfleet device label` once the device is known",
        )
    if sum((approval, token_file is not None, certificate is not None)) > 1 or (certificate is None) != (key is None):
        raise CommandError(
            "usage.identity",
            "a device gets its identity in one way",
            "give nothing, --token-file, --approval, or --cert and --key together",
        )
    if importlib.util.find_spec("beamfleet_agent") is None:
        raise CommandError(
            "flash.agent_missing",
            f"beamfleet-agent is not installed beside {sys.executable}",
            "pip install beamfleet-agent",
        )
    info = session.client.get("/server")
    tuf_root = Signing(session.client, session.context.keys).root()
    enrolled = _is_enrolled(root, device)
    given = _given(certificate, key)
    alone = enrolled or approval or bool(given)
    token = None if alone else _token(session, device, wanted, token_file, replace)
    settings = {
        "device": device,
        "app": APP,
        "hardware": hardware,
        "network": network or "",
        "server": addresses(info["listeners"], session.context.server),
        "ca_pem": info["fleet_ca"],
        "root_json_base64": base64.b64encode(tuf_root).decode("ascii"),
        "token": token,
        **given,
        "env": variables,
        "single_user": single_user,
        "allow_unsafe_filesystem": allow_unsafe_filesystem,
        "trial_s": trial_s,
        "trial_deadline_s": trial_deadline_s,
        "profile": profile.value,
        "health_interval_s": health_interval_s,
        "python": sys.executable,
    }
    answer = set_up(root, settings)
    if (enrolled or given) and wanted:
        session.client.patch(f"/devices/{device}", {"labels": wanted})
    run = answer["run"]
    session.output.done(
        {"device": device, "root": str(root), "run": run, "enrolled": enrolled, "setup": answer},
        f"{root} is {'again ' if enrolled else ''}device {device}",
        "device",
        f"{f'{run} starts it' if run else 'let init run launcher and agent'}; beamfleet device show {device}",
    )
    if answer["restart"] and session.output.for_people:
        session.output.note("its agent runs with the settings that it had: end it, init starts it anew")


def addresses(listeners: Mapping[str, Mapping[str, Any]], server: str) -> dict[str, str]:
    """Where a device finds the server: {api, enrol} URLs and {mqtt} host:port.

    A listener that names no host of its own is where the operator reached the server.
    """
    known = urlsplit(server).hostname or ""

    def place(name: str) -> str:
        host = str(listeners[name]["host"])
        host = known if host in _ANYWHERE else host
        return f"{f'[{host}]' if ':' in host else host}:{listeners[name]['port']}"

    return {"api": f"https://{place('devices')}", "enrol": f"https://{place('enrolment')}", "mqtt": place("mqtt")}


def set_up(root: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Run the agent's setup on a root directory; what it says it did. Its own error, or `flash.agent_failed`."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "beamfleet_agent", "setup", "--root", str(root)],
            input=json.dumps(settings),
            capture_output=True,
            text=True,
            timeout=SETUP_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CommandError(
            "flash.agent_failed",
            f"beamfleet-agent setup has not ended in {SETUP_TIMEOUT_S} s",
            "flash again; it is safe to repeat",
        ) from None
    try:
        answer = json.loads(done.stdout)
        if done.returncode == 0 and isinstance(answer, dict):
            return answer
        error = answer["error"]
        code, message, hint = (str(error.get(key, "")) for key in ("code", "message", "hint"))
    except (ValueError, KeyError, TypeError, AttributeError):
        last = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise CommandError(
            "flash.agent_failed", f"beamfleet-agent setup failed: {last}", "flash again; it is safe to repeat"
        ) from None
    raise RemoteError(code, message, hint)


def _is_enrolled(root: Path, device: str) -> bool:
    """Whether a certificate is there already; `flash.other_device` when it is another device's."""
    found = [place for name in CERTIFICATES if (place := root / IDENTITY / name).exists()]
    if not found:
        return False
    from beamfleet_bundles import pki

    name = pki.read_certificate(pki.load_certificate(found[0].read_bytes())).name
    if name != device:
        raise CommandError(
            "flash.other_device",
            f"{root} is enrolled as {name} already",
            f"--id {name} flashes it again; another device needs another directory",
        )
    return True


def _token(session: Session, device: str, labels: dict[str, str], token_file: Path | None, replace: bool) -> str:
    if token_file is None:
        return str(create_token(session.client, device, labels, TOKEN_LIFE_S, replace)["token"])
    return read_token(str(token_file))


def _given(certificate: Path | None, key: Path | None) -> dict[str, str]:
    """An identity that was made elsewhere, as setup takes it; {} if there is none."""
    if certificate is None or key is None:
        return {}
    files = {"certificate_pem": (certificate, "the certificate"), "key_pem": (key, "the key")}
    return {name: read_file(path, what).decode("ascii", "replace") for name, (path, what) in files.items()}


def _variables(pairs: list[str], file: Path | None) -> dict[str, str]:
    """Environment variables of the file, then of the flags. `usage.environment` for what is not KEY=VALUE."""
    lines = list(pairs)
    if file:
        text = read_file(file, "the environment").decode("utf-8", "replace")
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")] + lines
    variables: dict[str, str] = {}
    for line in lines:
        key, equals, value = line.partition("=")
        if not equals or not key.isidentifier() or not key.isascii() or os.linesep in value or "\0" in value:
            raise CommandError(
                "usage.environment", f"{key!r} is not set to anything", "KEY=VALUE, as in --env PORT=8080"
            )
        variables[key] = value
    return variables
