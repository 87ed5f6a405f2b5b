"""Owns the probes of a release: what they are, their limits, and how manifest and launch file spell them.

`http`, `command` and `timeout_s` are the gate of a trial. `startup`, `readiness` and `liveness` mean what Kubernetes
means by them and go on after the trial; a field with its default value has no spelling. Never asks a probe.
"""

import re
import string
from typing import Any, Literal

import msgspec

from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.paths import path_problem, printable

Kind = Literal["startup", "readiness", "liveness"]
KINDS: tuple[Kind, ...] = ("startup", "readiness", "liveness")
HANDLERS = ("http", "tcp", "command", "erlang")
MAX_TIMEOUT_S = 60
MAX_VALUE = 1024
"""Longest command or `PORT/PATH`, in bytes of UTF-8."""
LIMITS = {
    "initial_delay_s": (0, 3600),
    "period_s": (1, 3600),
    "timeout_s": (1, MAX_TIMEOUT_S),
    "success_threshold": (1, 100),
    "failure_threshold": (1, 1000),
}
_ERLANG = re.compile(r"[0-9A-Za-z_.@]{1,120}:[a-z_][0-9A-Za-z_@]{0,120}[?!]?")
_CODE = "launch.probe"


class Probe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One question that is asked again and again: exactly one of the first four fields says which."""

    http: str = ""
    """`PORT/PATH` on 127.0.0.1; an answer 200 to 399 is good."""
    tcp: int = 0
    """A port on 127.0.0.1 that takes a connection."""
    command: str = ""
    """An executable of the release by its path, then its arguments, parted by single spaces; exit code 0 is good."""
    erlang: str = ""
    """`module:function` without arguments, in the VM; `true` and `ok` are good."""
    initial_delay_s: int = 0
    """Not asked before, from the start of the VM."""
    period_s: int = 10
    timeout_s: int = 1
    success_threshold: int = 1
    """So many good answers in a row make a success; 1 but for readiness."""
    failure_threshold: int = 3
    """So many bad answers in a row make a failure."""

    @property
    def handler(self) -> str:
        """Which of HANDLERS it is; of a probe that was checked."""
        return next(name for name in HANDLERS if getattr(self, name))

    def check(self, kind: Kind) -> None:
        """Hold each value to its rule; error `launch.probe`."""
        if sum(bool(getattr(self, name)) for name in HANDLERS) != 1:
            hint = f"--probe-{kind} 'http=8080/health,period_s=5'"
            raise BundleError(_CODE, f"the {kind} probe has not exactly one of {', '.join(HANDLERS)}", hint)
        if self.http:
            check_http(self.http)
        if self.command:
            check_command(self.command)
        if self.tcp and not 0 < self.tcp < 65536:
            raise BundleError(_CODE, f"{self.tcp} is no port: ports are 1 to 65535", "write it as tcp=8080")
        if self.erlang and not _ERLANG.fullmatch(self.erlang):
            hint = "write it as my_health:alive, or Elixir.MyApp.Health:alive?"
            raise BundleError(_CODE, f"{self.erlang[:80]!r} is not MODULE:FUNCTION", hint)
        for name, (least, most) in LIMITS.items():
            if not least <= getattr(self, name) <= most:
                text = f"{name} of the {kind} probe is {least} to {most}, not {getattr(self, name)}"
                raise BundleError(_CODE, text, f"write it as {name}={max(least, 1)}, or leave it out")
        if self.success_threshold != 1 and kind != "readiness":
            text = f"success_threshold of a {kind} probe is 1: the first good answer counts"
            raise BundleError(_CODE, text, "leave it out")


class Probes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a release must answer besides running; everything is optional."""

    http: str | None = None
    """`PORT/PATH` on 127.0.0.1; an answer 200 to 299 within the time is good."""
    command: str | None = None
    """An executable of the release by its path, then its arguments, parted by single spaces; exit code 0 is good."""
    timeout_s: int = 5
    """1 to 60."""
    startup: Probe | msgspec.UnsetType = msgspec.UNSET
    """Until it succeeds the other two are not asked; when it fails the release is restarted."""
    readiness: Probe | msgspec.UnsetType = msgspec.UNSET
    """When it fails the release is not ready, and goes on."""
    liveness: Probe | msgspec.UnsetType = msgspec.UNSET
    """When it fails the release is restarted."""
    confirm: bool | msgspec.UnsetType = msgspec.UNSET
    """A trial also waits until the release has called `beamfleet_link:confirm/0`; true, or not there."""

    @property
    def named(self) -> dict[Kind, Probe]:
        """Those of KINDS that there are, in that order."""
        found = {kind: getattr(self, kind) for kind in KINDS}
        return {kind: probe for kind, probe in found.items() if isinstance(probe, Probe)}

    @property
    def commands(self) -> tuple[str, ...]:
        """Every command, the gate's first."""
        named = [probe.command for probe in self.named.values()]
        return tuple(command for command in (self.command or "", *named) if command)

    @property
    def executables(self) -> tuple[str, ...]:
        """The paths in the release that commands name."""
        return tuple(dict.fromkeys(command.split(" ")[0] for command in self.commands))

    @property
    def need_agent(self) -> bool:
        """Whether they ask for an agent that knows more than the gate."""
        return bool(self.named) or self.confirm is True

    def check(self) -> None:
        """Hold each value to its rule; error `launch.probe`."""
        if self.http is not None:
            check_http(self.http)
        if self.command is not None:
            check_command(self.command)
        if not 1 <= self.timeout_s <= MAX_TIMEOUT_S:
            text = f"a probe's time is 1 to {MAX_TIMEOUT_S} seconds, not {self.timeout_s}"
            raise BundleError(_CODE, text, "write it as 5")
        for kind, probe in self.named.items():
            probe.check(kind)
        if self.confirm is False:
            raise BundleError(_CODE, "confirm is true or not there", "leave it out")

    def pairs(self) -> list[tuple[str, str]]:
        """The keys and values of the launch file, but for those that come where they always came (`launch.py`)."""
        found = [
            (f"probe_{kind}_{key}", str(value))
            for kind, probe in self.named.items()
            for key, value in msgspec.to_builtins(probe).items()
        ]
        return [*found, ("probe_confirm", "yes")] if self.confirm is True else found


def take(lines: dict[str, str]) -> dict[str, Any]:
    """The fields of `Probes` in the lines of a launch file, which are taken out; what is wrong stays to be refused."""
    fields: dict[str, Any] = {
        "http": lines.pop("probe_http", "") or None,
        "command": lines.pop("probe_command", "") or None,
        "timeout_s": _number(lines.pop("probe_timeout_s", "")),
    }
    if lines.pop("probe_confirm", "") == "yes":
        fields["confirm"] = True
    for kind in KINDS:
        prefix = f"probe_{kind}_"
        found = {key.removeprefix(prefix): lines.pop(key) for key in list(lines) if key.startswith(prefix)}
        if found:
            texts = ("http", "command", "erlang")
            fields[kind] = {key: value if key in texts else _number(value) for key, value in found.items()}
    return fields


def parse(kind: Kind, text: str) -> Probe:
    """The probe in `http=8080/health,period_s=5`; error `launch.probe`. A comma parts only before a key of a probe."""
    names = "|".join(Probe.__struct_fields__)
    hint = f"give KEY=VALUE,... of {', '.join(Probe.__struct_fields__)}, each once"
    fields: dict[str, Any] = {}
    for part in re.split(rf",(?=(?:{names})=)", text):
        key, equals, value = part.partition("=")
        unknown = "" if equals and key in Probe.__struct_fields__ else key
        if unknown or not equals or (unknown := _misspelt(key, value)):
            raise BundleError(_CODE, f"{unknown[:80]!r} says nothing of a {kind} probe", hint)
        if key in fields:
            raise BundleError(_CODE, f"{key} of the {kind} probe is given twice", hint)
        if key in LIMITS or key == "tcp":
            fields[key] = _said(kind, key, value)
        else:
            fields[key] = value
    probe = Probe(**fields)
    probe.check(kind)
    return probe


def check_http(http: str) -> None:
    """Error `launch.probe` unless it is `PORT/PATH`."""
    port, slash, path = http.partition("/")
    digits = port.isascii() and port.isdigit() and len(port) <= 5 and port[0] != "0"
    plain = path.isascii() and path.isprintable() and " " not in path and len(http) <= MAX_VALUE
    if not (digits and int(port) < 65536 and slash and plain):
        raise BundleError(_CODE, f"{http[:80]!r} is not PORT/PATH", "write it as 8080/health")


def check_command(command: str) -> None:
    """Error `launch.probe` unless it is a path of the release and words, parted by single spaces."""
    words = command.split(" ")
    if not printable(command) or len(command.encode()) > MAX_VALUE or "" in words or path_problem(words[0]):
        raise BundleError(
            _CODE,
            f"{command[:80]!r} is not a command of the release",
            "name a file of the release by its path, then arguments parted by single spaces: bin/check --quick",
        )


def _misspelt(key: str, value: str) -> str:
    """The first word after a comma that looks like a key, where none can be meant: in `http=8080/health,perod_s=5`. An
    argument of a command may be anything, but for what is nearly a key."""
    words = re.findall(r",([A-Za-z_][0-9A-Za-z_-]*)=", value)
    if key == "command":
        import difflib  # where bundles are made, never on the device

        words = [word for word in words if difflib.get_close_matches(word, LIMITS, cutoff=0.8)]
    return words[0] if words else ""


def _said(kind: Kind, key: str, text: str) -> int:
    """The number that somebody wrote; error `launch.probe`."""
    if not (text.isascii() and text.isdigit()):
        raise BundleError(_CODE, f"{key} of the {kind} probe is not a number: {text[:80]!r}", f"write it as {key}=8")
    number = int(text[:9])  # above every limit as well
    if key == "tcp" and number == 0:
        raise BundleError(_CODE, "0 is no port: ports are 1 to 65535", "write it as tcp=8080")
    return number


def _number(text: str) -> int:
    """The number, or -1, which no rule allows."""
    return int(text) if 0 < len(text) <= 5 and frozenset(string.digits).issuperset(text) else -1
