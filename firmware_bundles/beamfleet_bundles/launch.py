"""Owns the launch description: how a release starts, as signed in the manifest and as read by the sh launcher.

The same facts twice: the object `launch` of the manifest, and the file `.beamfleet/launch`, `KEY=VALUE` lines of a
closed set of keys without quoting, never sourced. FORMAT.md documents both. Never looks at the files it names.
"""

import string
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from beamfleet_bundles import probes
from beamfleet_bundles.canonical import MAX_INTEGER
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.paths import path_problem, printable
from beamfleet_bundles.probes import Probes

PATH = ".beamfleet/launch"
"""Where the file lies in a slot."""
MAX_VALUE = 1024
"""Longest value, in bytes of UTF-8."""
MAX_ARGUMENTS = 64
MAX_ENVIRONMENT = 256

_UPPER = frozenset(string.ascii_uppercase + string.digits + "_")
_NAME = frozenset(string.ascii_letters + string.digits + "_")
_WORD = frozenset(string.ascii_letters + string.digits + "_.+~-")
_SINGLE = (
    "kind", "name", "vsn", "erts", "boot", "config", "config_src", "args_file", "args_src", "env_sh",
)  # fmt: skip
_LISTS = {"boot_var": "boot_vars", "arg": "args", "env": "environment"}

Kind = Literal["relx", "mix", "systools"]
Distribution = Literal["none", "loopback"]


class Launch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a release starts. Paths are relative to the slot; an empty one means that the release has no such file."""

    kind: Kind
    name: str
    vsn: str
    erts: str
    boot: str
    """Boot script without `.boot`."""
    config: str = ""
    config_src: str = ""
    """Expanded on the device into /run, and used instead of `config`."""
    args_file: str = ""
    args_src: str = ""
    """Expanded on the device into /run, and used instead of `args_file`."""
    env_sh: str = ""
    """Of mix: sourced on the device before the start, as the application's user."""
    boot_vars: dict[str, str] = {}
    args: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    """Names of environment variables that the release asks for; informative."""
    distribution: Distribution = "none"
    probes: Probes = Probes()
    data_schema: int | msgspec.UnsetType = msgspec.UNSET
    """Number of the layout of what the release keeps in data/; unset, and then in no spelling, where none is stated."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Every file of the release that the start needs, the probes' executables and ERTS's own included."""
        named = (self.config, self.config_src, self.args_file, self.args_src, self.env_sh)
        start = (f"erts-{self.erts}/bin/erlexec", f"{self.boot}.boot")
        return (*start, *filter(None, named), *self.probes.executables)

    def check(self) -> None:
        """Hold each value to its form; errors `launch.value`, `launch.probe`."""
        for key in ("name", "vsn", "erts"):
            _require(key, getattr(self, key), lambda value: _of(value, _WORD) and value[0] != "-")
        for key in _SINGLE[4:]:
            value = getattr(self, key)
            if value or key == "boot":
                _require(key, value, lambda value: not path_problem(value))
        for name, value in self.boot_vars.items():
            _require("boot_var", name, lambda name: _of(name, _UPPER) and not name[0].isdigit())
            _require("boot_var", value, lambda value: not path_problem(value))
        if len(self.args) > MAX_ARGUMENTS or len(self.environment) > MAX_ENVIRONMENT:
            raise BundleError(
                "launch.value",
                "the launch description has too many arguments or environment names",
                f"at most {MAX_ARGUMENTS} and {MAX_ENVIRONMENT}; put the rest into the release's own settings",
            )
        for value in self.args:
            _require("arg", value, bool)
        for value in self.environment:
            _require("env", value, lambda value: _of(value, _NAME) and not value[0].isdigit())
        if self.data_schema is not msgspec.UNSET and not 0 <= self.data_schema <= MAX_INTEGER:
            what = f"{self.data_schema} cannot be 'data_schema': 0 to {MAX_INTEGER}"
            raise BundleError("launch.value", what, "count it up by one with each new layout")
        self.probes.check()

    def encode(self) -> bytes:
        """The bytes of `.beamfleet/launch`; errors as `check`."""
        self.check()
        pairs = [(key, getattr(self, key)) for key in _SINGLE]
        pairs += [
            (f"boot_var.{i}", f"{name}={value}") for i, (name, value) in enumerate(sorted(self.boot_vars.items()))
        ]
        pairs += [(f"arg.{i}", value) for i, value in enumerate(self.args)]
        pairs += [(f"env.{i}", value) for i, value in enumerate(self.environment)]
        pairs += [
            ("distribution", self.distribution),
            ("probe_http", self.probes.http or ""),
            ("probe_command", self.probes.command or ""),
            ("probe_timeout_s", str(self.probes.timeout_s)),
        ]
        pairs += self.probes.pairs()
        if self.data_schema is not msgspec.UNSET:
            pairs.append(("data_schema", str(self.data_schema)))
        return "".join(f"{key}={value}\n" for key, value in pairs).encode()


def parse(data: bytes) -> Launch:
    """The description that `data` spells, in the spelling of `encode` and no other; errors `launch.*`."""
    single: dict[str, str] = {}
    lists: dict[str, list[str]] = {name: [] for name in _LISTS.values()}
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise BundleError("launch.syntax", "the launch description is not UTF-8") from None
    for line in text.removesuffix("\n").split("\n"):
        key, equals, value = line.partition("=")
        family = _LISTS.get(key.partition(".")[0])
        if not equals or key in single:
            raise BundleError("launch.syntax", f"the launch description has a line {line[:80]!r}")
        if family:
            lists[family].append(value)
        else:
            single[key] = value
    found, schema = probes.take(single), single.pop("data_schema", None)
    fields: dict[str, Any] = {
        **single,
        "args": lists["args"],
        "environment": lists["environment"],
        "boot_vars": dict(pair.partition("=")[::2] for pair in lists["boot_vars"]),
        "probes": found,
    }
    if schema is not None:
        fields["data_schema"] = int(schema) if _of(schema, string.digits) and len(schema) <= 16 else -1
    try:
        launch = msgspec.convert(fields, Launch)
    except msgspec.ValidationError as error:
        raise BundleError("launch.syntax", f"the launch description is not one: {error}") from None
    if launch.encode() != data:
        raise BundleError("launch.syntax", "the launch description is not in its canonical form")
    return launch


def _of(value: str, letters: frozenset[str] | str) -> bool:
    return bool(value) and frozenset(letters).issuperset(value)


def _require(key: str, value: str, rule: Callable[[str], bool]) -> None:
    if not printable(value) or len(value.encode(errors="replace")) > MAX_VALUE or not rule(value):
        raise BundleError(
            "launch.value",
            f"{value[:80]!r} cannot be {key!r} in a launch description",
            f"it comes from the release: printable, at most {MAX_VALUE} bytes, paths within the release",
        )
