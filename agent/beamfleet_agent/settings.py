"""Owns `agent.toml`: what the owner settled about this device. A closed schema; never writes.

device = "gw-1"                  this device's id
app = "main"
hardware = ""                    name of the board, when releases are built for boards
trial_s = 30                     how long a new release must be well before it is committed
profile = "wired"                how much it may say: "metered" where each byte is paid for
health_interval_s = 0            how often health is reported; 0: as the profile has it
poll_interval_s = 900            how often to look over HTTPS while MQTT cannot be reached
single_user = false              launcher, agent and release all run as one user
allow_unsafe_filesystem = false  slots lie where a power cut may damage them
network = ""                     wired, wifi, cellular or unknown, where the interface tells it wrong
proxy = ""                       http://HOST:PORT that all connections to the server have to pass
transport = "tcp"                how the broker is reached: "websocket" by the address of the API, on its one port
keepalive_s = 0                  how often the session says something at least; 0: as the profile has it
[server]                         may be left out: the device then takes releases from files only
api = "https://HOST:8444"
enrol = "https://HOST:8445"
mqtt = "HOST:8883"
"""

import tomllib
from typing import Any, NamedTuple

from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.names import check_app, check_device, check_hardware

from beamfleet_agent import proxy
from beamfleet_agent.errors import AgentError
from beamfleet_agent.place import NETWORKS
from beamfleet_agent.telemetry import PROFILES


class Server(NamedTuple):
    """Where the server is: two HTTPS addresses and the broker."""

    api: str
    enrol: str
    mqtt_host: str
    mqtt_port: int

    @property
    def api_place(self) -> tuple[str, int]:
        """Host and port of the API."""
        place = self.api.removeprefix("https://").partition("/")[0]
        return proxy.place(place if ":" in place.rpartition("]")[2] else f"{place}:443")


class Settings(NamedTuple):
    """The content of `agent.toml`, checked. `server` None: there is none."""

    device: str
    app: str = "main"
    hardware: str = ""
    trial_s: int = 30
    profile: str = "wired"
    health_interval_s: int = 0
    poll_interval_s: int = 900
    single_user: bool = False
    allow_unsafe_filesystem: bool = False
    network: str = ""
    proxy: str = ""
    transport: str = "tcp"
    keepalive_s: int = 0
    server: Server | None = None


RANGES = {
    "trial_s": (1, 3600), "health_interval_s": (0, 43_200), "poll_interval_s": (10, 604_800),
    "keepalive_s": (0, 43_200),
}  # fmt: skip
TRANSPORTS = ("tcp", "websocket")
_TYPES = {"str": str, "int": int, "bool": bool}


def load(path: str) -> Settings:
    """The settings in the file at `path`. Errors: `agent.settings_missing`, `agent.settings`."""
    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        hint = "lay the device down with `beamfleet flash --root DIR`, or name its directory with --root"
        raise AgentError("agent.settings_missing", f"cannot read {path}: {error.strerror}", hint) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AgentError("agent.settings", f"{path} is not TOML: {error}", "mend the line it names") from error
    try:
        return check(document)
    except AgentError as error:
        raise AgentError(error.code, f"{path}: {error.message}", error.hint) from None


def check(document: dict[str, Any]) -> Settings:
    """The settings that a TOML document spells. Error: `agent.settings`, naming the key."""
    fields = Settings.__annotations__
    values: dict[str, Any] = {}
    for key, value in document.items():
        if key == "server":
            values[key] = check_server(value)
            continue
        if key not in fields:
            raise _refusal(f"there is no setting {key!r}", f"the settings are {', '.join(fields)}")
        wanted = _TYPES[getattr(fields[key], "__name__", str(fields[key]))]
        if type(value) is not wanted:
            raise _refusal(f"{key} is {type(value).__name__}, not {wanted.__name__}", "see the settings in README.md")
        values[key] = _ranged(key, value)
    if "device" not in values:
        raise _refusal("the setting device is missing", 'add a line such as device = "gw-1"')
    if values.get("network") not in (None, "", *NETWORKS):
        raise _refusal(f"network = {values['network']!r} is no class of network", f"use {', '.join(NETWORKS)}")
    if values.get("profile") not in (None, *PROFILES):
        raise _refusal(f"profile = {values['profile']!r} is no profile", f"use {' or '.join(PROFILES)}")
    if values.get("transport") not in (None, *TRANSPORTS):
        raise _refusal(f"transport = {values['transport']!r} is no transport", f"use {' or '.join(TRANSPORTS)}")
    proxy.parse(values.get("proxy", ""))
    try:
        check_device(values["device"])
        check_app(values.get("app", "main"))
        if values.get("hardware"):
            check_hardware(values["hardware"])
    except BundleError as error:
        raise _refusal(error.message, error.hint) from error
    return Settings(**values)


def _ranged(key: str, value: Any) -> Any:
    if key in RANGES and not RANGES[key][0] <= value <= RANGES[key][1]:
        raise _refusal(f"{key} = {value} is out of range", f"use {RANGES[key][0]} to {RANGES[key][1]} seconds")
    return value


def check_server(table: Any) -> Server:
    """The server that {api, enrol, mqtt} names. Error: `agent.settings`."""
    if not isinstance(table, dict) or set(table) != {"api", "enrol", "mqtt"}:
        raise _refusal("[server] needs exactly api, enrol and mqtt", 'such as api = "https://HOST:8444"')
    for key in ("api", "enrol"):
        if not isinstance(table[key], str) or not table[key].startswith("https://") or " " in table[key]:
            raise _refusal(f"server.{key} = {table[key]!r} is not an https address", "such as https://HOST:8444")
    host, _, port = str(table["mqtt"]).rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise _refusal(f"server.mqtt = {table['mqtt']!r} is not HOST:PORT", "such as fleet.example.org:8883")
    server = Server(table["api"].rstrip("/"), table["enrol"].rstrip("/"), host.strip("[]"), int(port))
    if not server.api_place[0]:
        raise _refusal(f"server.api = {server.api!r} has no host, or no port", "such as https://HOST:8444")
    return server


def _refusal(message: str, hint: str) -> AgentError:
    return AgentError("agent.settings", message, hint)
