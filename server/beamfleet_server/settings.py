"""Owns the server's settings: their names, defaults, limits, and where each value came from; never acts on them.

Order of precedence: command-line flag, environment `BEAMFLEET_*`, `beamfleet-server.toml`, default. The file is the one
named by `--config`, else `DATA/beamfleet-server.toml`, else `/etc/beamfleet/beamfleet-server.toml` if it is there.
"""

import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_serializer, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from beamfleet_server.checks.thresholds import DEFAULTS, Thresholds
from beamfleet_server.database_address import DatabaseAddress
from beamfleet_server.errors import ServerError

PREFIX = "BEAMFLEET_"
FILE_NAME = "beamfleet-server.toml"
SYSTEM_FILE = Path("/etc/beamfleet") / FILE_NAME

SHORTEST_SECRET = 32

Source = Literal["default", "file", "environment", "flag"]
Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseSettings):
    """What `beamfleet serve` can be told. Ports: 0 takes a free one at the first start and keeps it."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, arbitrary_types_allowed=True, hide_input_in_errors=True
    )

    data: Path = Field(default=Path("beamfleet-data"), description="the one data directory of the server")
    database: Annotated[DatabaseAddress | None, NoDecode] = Field(
        default=None, description="postgresql://USER@HOST:PORT/NAME; SQLite in the data directory if unset"
    )
    database_password_file: Path | None = Field(default=None, description="where the password for the database is")
    host: str = Field(default="127.0.0.1", min_length=1, description="address that all listeners bind")
    operators_port: Port = Field(default=8443, description="HTTPS for operators and the command line")
    devices_port: Port = Field(default=8444, description="HTTPS for devices, client certificate required")
    enrolment_port: Port = Field(default=8445, description="HTTPS for enrolment (EST)")
    mqtt_port: Port = Field(default=8883, description="MQTT over TLS, client certificate required")
    metrics_host: str = Field(default="127.0.0.1", min_length=1, description="address of the metrics listener")
    metrics_port: Port = Field(default=9464, description="metrics for Prometheus, plain HTTP")
    metrics_per_device: bool = Field(default=False, description="metrics have series of each device as well")
    otel_endpoint: str = Field(
        default="",
        pattern="^(https?:/{2}[^?#]+)?$",
        description="OTLP/HTTP collector that traces of rollouts go to; none if unset",
    )
    names: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="names and addresses under which devices reach this server; the first one is told to them",
    )
    admin_token_file: Path | None = Field(
        default=None, description="where the first operator's token is at the first start; made up if unset"
    )
    mosquitto: Path | None = Field(
        default=None, description="the mosquitto program; searched on PATH and in /usr/sbin if unset"
    )
    log_format: Literal["console", "json"] = Field(default="console", description="how log lines on stderr look")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least level that is logged"
    )
    max_bundle_bytes: int = Field(default=2 << 30, ge=1 << 10, description="largest bundle that is taken")
    requests_per_operator_s: int = Field(default=100, ge=1, description="requests a second of one operator")
    requests_per_address_s: int = Field(
        default=200, ge=1, description="requests a second of one address, to operators' API and enrolment"
    )
    requests_per_device_s: int = Field(default=20, ge=1, description="HTTPS requests a second of one device")
    session_idle_s: int = Field(default=1800, ge=60, description="a web session ends when unused for this long")
    session_life_s: int = Field(default=43_200, ge=60, description="a web session ends after this, used or not")
    device_certificate_days: int = Field(
        default=90, ge=1, le=3650, description="how long a device's certificate is good; it is renewed at 2/3 of that"
    )
    device_certificate_s: int = Field(
        default=0, ge=0, description="the same in seconds, for trials of renewal; 0: device_certificate_days counts"
    )
    server_certificate_s: int = Field(
        default=397 * 86_400, ge=10, description="how long the server's own certificates are good, in seconds"
    )
    enrolment_approval: bool = Field(
        default=False, description="devices without a token may ask to be enrolled, and wait until somebody accepts"
    )
    approval_above: int = Field(
        default=0, ge=0, description="rollouts to more devices need a second operator's approval; 0: none does"
    )
    oidc_issuer: str = Field(default="", pattern="^(https:/{2}.+)?$", description="OpenID provider for web log-ins")
    oidc_client_id: str = Field(default="", description="as what the provider knows this server")
    oidc_client_secret_file: Path | None = Field(default=None, description="where the provider's secret for it is")
    oidc_ca_file: Path | None = Field(default=None, description="the CA of the provider, if it is one of your own")
    oidc_role_claim: str = Field(default="beamfleet_role", min_length=1, description="the claim that has the role")
    ingest_batch: int = Field(default=2000, ge=1, le=60_000, description="most reports committed at once")
    ingest_wait_ms: int = Field(
        default=20, ge=0, le=10_000, description="longest time a report waits for others; of health alone, a second"
    )
    ingest_rate: int = Field(
        default=20, ge=1, description="messages a second of one device, with a minute's worth at once"
    )
    flood_patience_s: int = Field(default=60, ge=1, description="a device above its rate for this long is cut off")
    flood_deny_s: int = Field(default=600, ge=1, description="how long it is not taken again")
    offline_after_s: int = Field(
        default=300,
        ge=5,
        description="a device that does not say how often it speaks is shown offline when silent for this long",
    )
    health: Annotated[Thresholds, NoDecode] = Field(
        default=DEFAULTS, description="thresholds of the checks of health, a table in the file; HEALTH.md"
    )
    heartbeat_url: str = Field(
        default="", pattern=r"^(https?:/{2}[^#\s]+)?$", description="posted to each minute while all is well"
    )
    heartbeat_ca_file: Path | None = Field(
        default=None, description="the CA of what heartbeat_url names, if it is one of your own"
    )

    webhook_networks: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="networks that webhooks may go to beside public addresses, there also without TLS"
    )
    webhook_ca_file: Path | None = Field(
        default=None, description="authorities of webhooks' receivers, beside those of this system"
    )
    webhook_timeout_s: int = Field(default=10, ge=1, le=60, description="how long a receiver of a webhook has")
    webhook_retry_s: int = Field(
        default=5, ge=1, le=3600, description="the first pause after a failed webhook; each further one is twice that"
    )
    webhook_retry_for_s: int = Field(
        default=86_400, ge=1, description="how long a delivery is tried before it has failed"
    )
    webhook_disable_after_s: int = Field(
        default=3 * 86_400, ge=1, description="a webhook that takes nothing for so long is disabled"
    )
    webhook_log_days: int = Field(default=30, ge=1, le=3650, description="how long deliveries are listed")

    @field_validator("names", "webhook_networks", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("database", mode="before")
    @classmethod
    def _read_address(cls, value: object) -> object:
        return (DatabaseAddress.parse(value) if value else None) if isinstance(value, str) else value

    @field_serializer("database")
    def _show_address(self, value: DatabaseAddress | None) -> str:
        return str(value or "")

    @field_validator(
        "data", "mosquitto", "admin_token_file", "database_password_file", "webhook_ca_file", "heartbeat_ca_file"
    )
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value.expanduser().absolute() if value else value

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` hands over: the order of sources, and who said what, is decided there."""
        del settings_cls
        return (init_settings,)

    @property
    def device_life_s(self) -> int:
        """How long a device's certificate is good, in seconds."""
        return self.device_certificate_s or self.device_certificate_days * 86_400

    @property
    def address(self) -> str:
        """The name or address under which this server tells others to reach it."""
        if self.names:
            return self.names[0]
        return "localhost" if self.host in ("0.0.0.0", "::", "") else self.host  # noqa: S104 (compared, not bound)


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings together with the source of each: `sources[key]` is default, file, environment or flag."""

    settings: Settings
    sources: Mapping[str, Source]
    file: Path | None

    def described(self) -> list[dict[str, str]]:
        """One row `{key, value, source, description}` per setting, in order of declaration."""
        values = self.settings.model_dump(mode="json")
        return [
            {
                "key": key,
                "value": _shown(values[key]),
                "source": self.sources[key],
                "description": field.description or "",
            }
            for key, field in Settings.model_fields.items()
        ]


def load(flags: Mapping[str, Any] | None = None, file: Path | None = None) -> Configuration:
    """Settings from flags (None means "not given"), environment and file; error `server.settings` names what is
    wrong."""
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    environment = dict(EnvSettingsSource(Settings)())
    file = file or _find_file(
        Path(given.get("data") or environment.get("data") or Settings.model_fields["data"].default)
    )
    from_file = _read(file) if file else {}
    layers: tuple[tuple[Source, Mapping[str, Any]], ...] = (
        ("file", from_file),
        ("environment", environment),
        ("flag", given),
    )
    merged: dict[str, Any] = {}
    sources: dict[str, Source] = dict.fromkeys(Settings.model_fields, "default")
    for source, layer in layers:
        merged |= layer
        sources |= dict.fromkeys(layer, source)
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise ServerError("server.settings", _told(error, sources, file), "see `beamfleet serve --help`") from None
    return Configuration(_with_password(settings, sources["database"], file), sources, file)


def read_secret(file: Path, shortest: int = SHORTEST_SECRET) -> str:
    """The one word in a file, of at least `shortest` characters; error `server.settings`, without the secret."""
    try:
        secret = file.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not ASCII"
        raise ServerError("server.settings", f"cannot read the secret in {file}: {what}", "check the path") from None
    if len(secret) < shortest or not secret.isprintable() or " " in secret:
        what = f"the secret in {file} is not one word of at least {shortest} characters"
        raise ServerError("server.settings", what, "make one: openssl rand -base64 32")
    return secret


def _with_password(settings: Settings, source: Source, file: Path | None) -> Settings:
    """The settings with the database's password out of its file; refused where others can read one."""
    address, password_file = settings.database, settings.database_password_file
    if address is None:
        return settings
    if address.password and source == "flag":
        what = "database: a password on a command line is shown by `ps` to everybody"
        raise ServerError("server.settings", what, "put it into a file, and name that with database_password_file")
    if address.password and source == "file" and file and file.stat().st_mode & stat.S_IROTH:
        what = f"{os.fspath(file)}: database has a password, and everybody may read the file"
        raise ServerError("server.settings", what, f"chmod o-r {os.fspath(file)}")
    if password_file is None:
        return settings
    return settings.model_copy(update={"database": replace(address, password=read_secret(password_file, 1))})


def _find_file(data: Path) -> Path | None:
    return next((path for path in (data / FILE_NAME, SYSTEM_FILE) if path.is_file()), None)


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise ServerError(
            "server.settings", f"cannot read {os.fspath(file)}: {error.strerror}", "check the path given with --config"
        ) from None
    except ValueError as error:
        raise ServerError(
            "server.settings", f"{os.fspath(file)} is not TOML: {error}", 'mend the line it names, as in host = "::"'
        ) from None


def _told(error: ValidationError, sources: Mapping[str, Source], file: Path | None) -> str:
    parts = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        key = str(problem["loc"][0]) if problem["loc"] else "settings"
        source = sources.get(key, "flag")
        within = ".".join(str(part) for part in problem["loc"]) or key
        where = {"environment": f"{PREFIX}{key.upper()}", "file": f"{file}: {within}"}.get(source, within)
        parts.append(f"{where}: {problem['msg'][:1].lower()}{problem['msg'][1:]}")
    return "; ".join(parts)


def _shown(value: object) -> str:
    match value:
        case None:
            return ""
        case list() | tuple():
            return ",".join(str(item) for item in value)
        case dict():
            return ",".join(f"{key}={item}" for key, item in value.items())
        case _:
            return str(value)
