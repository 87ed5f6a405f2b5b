"""Owns what is believed of what `remote/facts.sh` prints on a device: KEY=value lines, hostile until they fit. Pure.

A key that is not known is left out, as is a line that is too long, and what the login prints before the script begins.
Of what is told twice the first counts.
"""

from dataclasses import dataclass

from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.filesystem import why_unsafe
from beamfleet_bundles.names import check_device

from beamfleet_server.flash.errors import FlashError
from beamfleet_server.flash.facts import Filesystem, TargetFacts, version

_TEXTS = frozenset({"arch", "os", "python_path", "libc", "init", "packager", "filesystem", "agent_version", "device"})
_VERSIONS = frozenset({"python", "libc_version"})
_NUMBERS = frozenset({"clock_s", "free_kib", "free_inodes", "user"})
_FLAGS = frozenset({"journal", "read_only", "enrolled", "unfinished", "end"})
_LISTS = frozenset({"tool", "applet", "library", "lacking", "account"})
_MOST_CHARACTERS = 256
_MOST_LINES = 40_000
_MOST_DIGITS = 15


@dataclass(frozen=True, slots=True)
class Found:
    """The facts, and what only matters to who is logged in."""

    facts: TargetFacts
    unfinished: bool
    """Whether an earlier flash has left something half done."""


def parse(said: bytes) -> Found:
    """What a device says it is. `flash.remote_failed` when it has not said all."""
    texts, lists = dict[str, str](), {key: dict[str, None]() for key in _LISTS}
    for line in said.decode("utf-8", "replace").splitlines()[:_MOST_LINES]:
        key, equals, value = line.partition("=")
        if not equals or not value or len(value) > _MOST_CHARACTERS or not value.isprintable():
            continue
        if key == "begin":
            texts, lists = {}, {key: {} for key in _LISTS}
        elif key in _LISTS:
            lists[key][value] = None
        elif key in _TEXTS | _VERSIONS | _NUMBERS | _FLAGS:
            texts.setdefault(key, value)
    if "end" not in texts:
        raise FlashError(
            "flash.remote_failed", "the device has not told what it is", "does `ssh HOST sh -c true` work?"
        )
    numbers = {key: int(value) for key in _NUMBERS if _is_number(value := texts.get(key, ""))}
    kind, kib = texts.get("filesystem", ""), numbers.get("free_kib")
    facts = TargetFacts(
        arch=texts.get("arch", ""),
        libc=texts.get("libc", ""),
        libc_version=version(texts.get("libc_version", "")),
        python=version(texts.get("python", "")),
        python_path=texts.get("python_path", ""),
        init=texts.get("init", ""),
        packager=texts.get("packager", ""),
        os=texts.get("os", ""),
        filesystem=Filesystem(kind, why_unsafe(kind or "unknown", texts.get("journal") == "yes")),
        read_only="read_only" in texts,
        free_bytes=None if kib is None else kib << 10,
        free_inodes=numbers.get("free_inodes"),
        clock_s=numbers.get("clock_s"),
        tools=frozenset(lists["tool"]),
        applets=frozenset(lists["applet"]),
        lacking=tuple(lists["lacking"]),
        libraries=frozenset(lists["library"]),
        agent_version=texts.get("agent_version", ""),
        device=_device(texts.get("device", "")),
        enrolled="enrolled" in texts,
        running=True,
        users=frozenset(lists["account"]),
    )
    return Found(facts, "unfinished" in texts)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS


def _device(text: str) -> str:
    try:
        check_device(text)
    except BundleError:
        return ""
    return text
