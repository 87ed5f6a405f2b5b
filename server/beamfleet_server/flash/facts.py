"""Owns the shape of what is known of a target before anything is written to it; finds nothing out itself.

Everything has a default that says "not known": a look that cannot tell leaves it so, and the checks refuse only what
they know to be wrong, or what they have to know.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Filesystem:
    """What lies under the slots. `why` says in a few words why a power cut may damage it; empty: it is safe."""

    kind: str = ""
    why: str = ""

    @property
    def safe(self) -> bool:
        """Whether renames and fsync hold through a power cut."""
        return not self.why


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """A Linux system, running or lying in files."""

    arch: str = ""
    """As `uname -m` has it: x86_64, aarch64, armv7l, armv6l, riscv64, ..."""
    libc: str = ""
    """glibc or musl; empty when there is none that we know."""
    libc_version: tuple[int, int] | None = None
    python: tuple[int, int] | None = None
    python_path: str = ""
    """Inside the target: /usr/bin/python3."""
    init: str = ""
    """systemd, busybox, sysvinit, openrc; empty when it has none that we know."""
    packager: str = ""
    """dpkg, rpm, opkg, apk; empty when it has none, or no database of one."""
    os: str = ""
    """PRETTY_NAME of os-release."""
    filesystem: Filesystem = field(default_factory=Filesystem)
    """Under /var/lib/beamfleet."""
    read_only: bool = False
    """Whether /usr, /etc or /var cannot be written to."""
    free_bytes: int | None = None
    """For us, on the filesystem of /usr or of /var/lib, whichever has less."""
    free_inodes: int | None = None
    """None also where the filesystem makes them as needed."""
    clock_s: float | None = None
    """Its time in seconds of Unix; None when it does not run."""
    tools: frozenset[str] = frozenset()
    """Names of commands on its PATH, of those that we ask for (`checks.TOOLS`); BusyBox's applets are in `applets`."""
    applets: frozenset[str] = frozenset()
    """What its BusyBox can do, when it has one."""
    lacking: tuple[str, ...] = ()
    """Abilities of the launcher that were tried and are not there; only a running target can be tried."""
    libraries: frozenset[str] = frozenset()
    """Sonames that its loader finds: libssl.so.3, ..."""
    agent_version: str = ""
    """Of the agent that is installed there; empty when none is."""
    device: str = ""
    """The id in its agent.toml, or in its certificate; empty when it is no device."""
    enrolled: bool = False
    """Whether it has a certificate."""
    running: bool = False
    """Whether it is a running system, and not files."""
    is_root: bool = True
    """Whether this is the root of a Linux system at all."""
    not_root: str = ""
    """Why it is none, in a few words."""
    users: frozenset[str] = frozenset()
    """Names in its passwd, of those that the device needs."""

    def document(self) -> dict[str, Any]:
        """For `-o json`: lists for sets and tuples, "3.11" for versions."""
        shown: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name in {"python", "libc_version"}:
                shown[each.name] = ".".join(map(str, value)) if value else None
            elif isinstance(value, Filesystem):
                shown[each.name] = {"kind": value.kind, "safe": value.safe, "why": value.why}
            elif isinstance(value, frozenset | tuple):
                shown[each.name] = sorted(value)
            else:
                shown[each.name] = value
        return shown


@dataclass(frozen=True, slots=True)
class Problem:
    """What stands against flashing a target, with the remedy. `code` is one of `errors.CODES`."""

    code: str
    message: str
    hint: str


def version(text: str) -> tuple[int, int] | None:
    """(3, 11) of "3.11.2"; None of what is no version."""
    major, dot, rest = text.strip().partition(".")
    minor = rest.partition(".")[0]
    if not (dot and major.isdecimal() and minor.isdecimal() and major.isascii() and minor.isascii()):
        return None
    return int(major), int(minor)


def facts_of(document: Mapping[str, Any]) -> TargetFacts:
    """The facts of a document as `TargetFacts.document` makes it, such as a script on a running device prints; it
    arrives hostile: what has another type than it must is a ValueError, what is not known is left out."""
    kinds: dict[str, type | tuple[type, ...]] = {
        "read_only": bool, "enrolled": bool, "running": bool, "is_root": bool,
        "free_bytes": int, "free_inodes": int, "clock_s": (int, float),
    }  # fmt: skip
    given: dict[str, Any] = {}
    for each in fields(TargetFacts):
        value = document.get(each.name)
        if value is None:
            continue
        if each.name in {"python", "libc_version"}:
            given[each.name] = version(value) if isinstance(value, str) else None
        elif each.name == "filesystem":
            kind, why = (value.get(key, "") for key in ("kind", "why")) if isinstance(value, dict) else (None, None)
            if not isinstance(kind, str) or not isinstance(why, str):
                raise ValueError(each.name)
            given[each.name] = Filesystem(kind, why)
        elif each.name in {"tools", "applets", "libraries", "users", "lacking"}:
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                raise ValueError(each.name)
            given[each.name] = tuple(value) if each.name == "lacking" else frozenset(value)
        else:
            if not isinstance(value, kinds.get(each.name, str)) or (
                isinstance(value, bool) != (kinds.get(each.name, str) is bool)
            ):
                raise ValueError(each.name)
            given[each.name] = value
    return TargetFacts(**given)
