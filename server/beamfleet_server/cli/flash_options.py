"""Owns the options of `beamfleet flash`, one set for every kind of target; means nothing by them."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from beamfleet_server.cli.options import Labels
from beamfleet_server.cli.tokens import Replace


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


class Transport(StrEnum):
    """What carries MQTT."""

    TCP = "tcp"
    WEBSOCKET = "websocket"


Root = Annotated[Path | None, typer.Option("--root", metavar="DIR", help="A mounted card, or the root of a container.")]
SingleUser = Annotated[
    bool, typer.Option("--single-user", help="With --root: a device in a directory; everything runs as you.")
]
Image = Annotated[
    str | None, typer.Option("--image", metavar="FILE[:N]", help="A disk image; N is the partition with the root.")
]
Block = Annotated[
    Path | None, typer.Option("--device", metavar="/dev/sdX", help="A card or a disk; with --image, written first.")
]
Ssh = Annotated[
    str | None, typer.Option("--ssh", metavar="[USER@]HOST[:PORT]", help="A running device, by way of sudo.")
]
Deb = Annotated[
    Path | None, typer.Option("--deb", metavar="OUT", help="No target: a package with this fleet's configuration.")
]
Id = Annotated[str, typer.Option("--id", metavar="ID", help="The device's id: small letters, digits and dashes.")]
IdFrom = Annotated[
    str,
    typer.Option(
        "--id-from", metavar="SOURCE", help="Worked out by the device itself: machine-id, serial, mac, command:PATH."
    ),
]
IdPrefix = Annotated[str, typer.Option("--id-prefix", metavar="TEXT", help="With --id-from: how the ids begin.")]
TokenFile = Annotated[
    Path | None, typer.Option("--token-file", metavar="FILE", help="A token from `token create`; else one is made.")
]
Count = Annotated[
    int, typer.Option("--count", metavar="N", min=1, help="With --id-from: how many devices the token lets in.")
]
Expires = Annotated[
    str,
    typer.Option("--expires", metavar="TIME", help="How long the token is good; 1h, or 7d for what boots later."),
]
Approval = Annotated[
    bool, typer.Option("--approval", help="Without a token: the device waits for `beamfleet device accept`.")
]
Certificate = Annotated[
    Path | None, typer.Option("--cert", metavar="FILE", help="A certificate from `device provision`; with --key.")
]
Key = Annotated[Path | None, typer.Option("--key", metavar="FILE", help="The key of --cert; both stay where they are.")]
Hardware = Annotated[
    str, typer.Option("--hardware", metavar="BOARD", help="Also takes what was built for this --hardware.")
]
NetworkClass = Annotated[
    Network | None, typer.Option("--network", help="How it is connected, where it cannot see that itself.")
]
Environment = Annotated[
    list[str] | None,
    typer.Option("--env", metavar="KEY=VALUE", help="For the release's environment (app.env); repeat for more."),
]
EnvironmentFile = Annotated[
    Path | None,
    typer.Option("--env-file", metavar="FILE", help="KEY=VALUE lines for app.env; the place for secrets."),
]
Files = Annotated[
    list[str] | None,
    typer.Option("--file", metavar="FILE:/PATH[:MODE]", help="Lay a file down on the device; repeat for more."),
]
Wifi = Annotated[str | None, typer.Option("--wifi-ssid", metavar="SSID", help="The wireless network to join.")]
WifiKey = Annotated[
    Path | None, typer.Option("--wifi-psk-file", metavar="FILE", help="Its passphrase, in a file; without: it is open.")
]
WifiCountry = Annotated[str, typer.Option("--wifi-country", metavar="CC", help="Where the device will be: DE, US.")]
Apn = Annotated[str | None, typer.Option("--apn", metavar="NAME", help="The access point of the cellular network.")]
ApnUser = Annotated[str, typer.Option("--apn-user", metavar="NAME", help="Who logs in there.")]
ApnPassword = Annotated[
    Path | None, typer.Option("--apn-password-file", metavar="FILE", help="With which password, in a file.")
]
Proxy = Annotated[
    str | None,
    typer.Option("--proxy", metavar="URL", help="An HTTP proxy between device and server: http://HOST:PORT."),
]
ProxyFile = Annotated[
    Path | None, typer.Option("--proxy-file", metavar="FILE", help="The same with a password in it, in a file.")
]
Carrier = Annotated[
    Transport | None, typer.Option("--transport", help="websocket: one port, HTTPS from outside; else tcp.")
]
Keepalive = Annotated[
    int,
    typer.Option("--keepalive", metavar="N", min=0, help="Seconds after which silence is broken; 0: as the profile."),
]
BundleFile = Annotated[
    Path | None,
    typer.Option("--bundle", metavar="FILE", help="A signed release to run before it sees a network."),
]
PackageFile = Annotated[
    Path | None,
    typer.Option("--package", metavar="FILE", help="The agent's package; else the one that fits is taken."),
]
Packages = Annotated[
    Path | None, typer.Option("--packages", metavar="DIR", help="Where packages are; else $BEAMFLEET_PACKAGES.")
]
AllowUnsafe = Annotated[
    bool, typer.Option("--allow-unsafe-filesystem", help="Also where a power cut may lose files. For trials.")
]
Trial = Annotated[
    int, typer.Option("--trial-s", metavar="N", min=1, help="Seconds that a new release has to stay healthy.")
]
TrialDeadline = Annotated[
    int | None,
    typer.Option(
        "--trial-deadline-s", metavar="N", min=2, help="Seconds after which a trial reverts; else chosen by the trial."
    ),
]
Says = Annotated[Profile, typer.Option("--profile", help="How much it may say: metered where each byte is paid for.")]
HealthInterval = Annotated[
    int,
    typer.Option(
        "--health-interval", metavar="N", min=0, help="Seconds between health reports; 0: as the profile has it."
    ),
]
Remove = Annotated[bool, typer.Option("--remove", help="Take the agent away again; releases and data stay.")]
Wipe = Annotated[bool, typer.Option("--wipe", help="With --remove: identity, secrets, releases and data as well.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Look, check, show the plan, and change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@dataclass(frozen=True, slots=True)
class FlashOptions:
    """What was typed."""

    root: Root = None
    single_user: SingleUser = False
    image: Image = None
    device: Block = None
    ssh: Ssh = None
    deb: Deb = None
    id: Id = ""
    id_from: IdFrom = ""
    id_prefix: IdPrefix = ""
    labels: Labels = None
    token_file: TokenFile = None
    count: Count = 1
    expires: Expires = ""
    replace: Replace = False
    approval: Approval = False
    certificate: Certificate = None
    key: Key = None
    hardware: Hardware = ""
    network: NetworkClass = None
    profile: Says = Profile.WIRED
    health_interval_s: HealthInterval = 0
    trial_s: Trial = 30
    trial_deadline_s: TrialDeadline = None
    environment: Environment = None
    env_file: EnvironmentFile = None
    files: Files = None
    wifi_ssid: Wifi = None
    wifi_psk_file: WifiKey = None
    wifi_country: WifiCountry = ""
    apn: Apn = None
    apn_user: ApnUser = ""
    apn_password_file: ApnPassword = None
    proxy: Proxy = None
    proxy_file: ProxyFile = None
    transport: Carrier = None
    keepalive_s: Keepalive = 0
    bundle: BundleFile = None
    package: PackageFile = None
    packages: Packages = None
    allow_unsafe_filesystem: AllowUnsafe = False
    remove: Remove = False
    wipe: Wipe = False
    dry_run: DryRun = False
    yes: Yes = False
