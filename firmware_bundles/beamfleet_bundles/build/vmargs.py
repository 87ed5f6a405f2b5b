"""Owns taking out of a release's `vm.args` what beamfleet decides itself: heart, detaching, node names, cookies.

Reads a file as erlexec does: white space parts arguments, quotes and backslashes join, `#` comments to the line's end.
What stays, stays to the byte. In a `.src` file `${NAME:-text}` is one piece: it is expanded on the device, before
erlexec reads it. Paths relative to the release are made independent of the directory that the VM runs in.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from beamfleet_bundles.errors import BundleError

_PLAIN = rb"""\\.|\\\Z|"[^"]*(?:"|\Z)|'[^']*(?:'|\Z)|[^\s#"'\\]"""
_ARGUMENT = re.compile(rb"(?:" + _PLAIN + rb")+", re.DOTALL)
_ARGUMENT_SRC = re.compile(rb"(?:\$\{[^}\n]*\}|" + _PLAIN + rb")+", re.DOTALL)
_GAP = re.compile(rb"(?:\s|#[^\n]*)*")
_QUOTED = re.compile(rb"""\\(.?)|"([^"]*)"?|'([^']*)'?""", re.DOTALL)
_ROOT = re.compile(r"\$\{?(?:ROOTDIR|RELEASE_ROOT_DIR|RELEASE_ROOT)\}?/")
_DISTRIBUTION = "distribution is off unless the bundle is built with --distribution loopback"
_TAKEN = {
    "-heart": "beamfleet starts heart itself",
    "-detached": "the VM stays a child of the launcher",
    "-noinput": "the launcher gives it",
    "-sname": _DISTRIBUTION,
    "-name": _DISTRIBUTION,
    "-setcookie": "cookies are made on the device",
}
_PATHS = ("-config", "-pa", "-pz")
_MAX_NESTING = 8
_CUT = b"\0"


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A file's new content; `expand` says that it now holds `${ROOTDIR}` and has to be expanded on the device."""

    data: bytes
    expand: bool
    notices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Argument:
    start: int
    end: int
    text: str

    @property
    def is_flag(self) -> bool:
        return self.text[:1] in ("-", "+")


class Cleaner:
    """Cleans `vm.args` files of one release."""

    def __init__(self, read: Callable[[str], bytes], exists: Callable[[str], bool]) -> None:
        """`read` gives the content of a file of the release, `exists` knows its files and directories, by path."""
        self._read = read
        self._exists = exists

    def clean(self, path: str) -> Cleaned:
        """The file at `path` without what beamfleet decides. Error: `release.vm_args`."""
        return self._clean(path, path.endswith(".src"), 0)

    def _clean(self, path: str, src: bool, depth: int) -> Cleaned:
        data = self._read(path)
        if _CUT in data:
            raise _refused(path, "holds a zero byte", "mend the file")
        arguments = _arguments(data, src)
        edits: list[tuple[int, int, bytes]] = []
        notices: list[str] = []
        rooted = False
        index = 0
        while index < len(arguments):
            flag = arguments[index]
            if flag.text == "-extra":
                if depth:
                    raise _refused(
                        path, "has -extra, which would change its meaning here", "move it to the end of vm.args"
                    )
                break
            values = _values(arguments, index)
            shown = " ".join([flag.text, *(value.text for value in values)])
            following = index + 1 + len(values)
            if flag.text in _TAKEN:
                edits += [(argument.start, argument.end, _CUT) for argument in arguments[index:following]]
                shown = flag.text if flag.text == "-setcookie" else shown
                notices.append(f"{path}: {shown} is taken out: {_TAKEN[flag.text]}")
            elif flag.text == "-env" and values and values[0].text.startswith("HEART_"):
                edits += [(argument.start, argument.end, _CUT) for argument in arguments[index:following]]
                notices.append(f"{path}: {shown} is taken out: the launcher sets heart up")
            elif flag.text == "-boot":
                raise _refused(path, f"has {shown}, but the boot script is the release's own", "take -boot out of it")
            elif flag.text == "-args_file":
                inner = self._include(path, values, src, depth)
                edits += [(flag.start, flag.end, _CUT), (values[0].start, values[0].end, b"\n" + inner.data + b"\n")]
                rooted |= inner.expand
                notices += [*inner.notices, f"{path}: the content of {values[0].text} takes the place of -args_file"]
            elif flag.text in _PATHS:
                for value in values:
                    if place := self._inside(path, flag.text, value.text):
                        edits.append((value.start, value.end, b"${ROOTDIR}/" + place.encode()))
                        rooted = True
            index = following
        if rooted and not src and b"${" in data:
            raise _refused(path, "needs a path of the release, and holds ${ beside it", "name the file vm.args.src")
        return Cleaned(_apply(data, edits), rooted, tuple(notices))

    def _include(self, path: str, values: list[_Argument], src: bool, depth: int) -> Cleaned:
        place = _ROOT.sub("", values[0].text, count=1) if values else ""
        if not self._exists(place) or depth == _MAX_NESTING:
            raise _refused(
                path, f"has -args_file {place[:160]}, which is no file of the release", "put its lines into vm.args"
            )
        return self._clean(place, src, depth + 1)

    def _inside(self, path: str, flag: str, value: str) -> str:
        """The path in the release that a flag's value names; empty for what is left as it is."""
        place = _ROOT.sub("", value, count=1).removeprefix("./").rstrip("/")
        if self._exists(place) or (flag == "-config" and self._exists(f"{place}.config")):
            return place
        if flag == "-config":
            hint = "put the file into the release, or its settings into sys.config"
            raise _refused(path, f"has -config {value[:160]}, which is no file of the release", hint)
        return ""


def _arguments(data: bytes, src: bool) -> list[_Argument]:
    pattern = _ARGUMENT_SRC if src else _ARGUMENT
    arguments = []
    position = _GAP.match(data).end()  # type: ignore[union-attr] # it matches the empty string
    while match := pattern.match(data, position):
        text = _QUOTED.sub(lambda part: part[1] or part[2] or part[3] or b"", match[0])
        arguments.append(_Argument(match.start(), match.end(), text.decode(errors="replace")))
        position = _GAP.match(data, match.end()).end()  # type: ignore[union-attr]
    return arguments


def _values(arguments: list[_Argument], index: int) -> list[_Argument]:
    """What belongs to the flag at `index`: erlexec takes fixed counts for three flags, init all up to the next flag."""
    fixed = {"-env": 2, "-name": 1, "-sname": 1, "-args_file": 1}.get(arguments[index].text, 0)
    end = min(index + 1 + fixed, len(arguments))
    while not fixed and end < len(arguments) and not arguments[end].is_flag:
        end += 1
    return arguments[index + 1 : end]


def _apply(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """Make the edits; lines of which nothing else is left go with them."""
    pieces, position = [], 0
    for start, end, replacement in edits:
        pieces += [data[position:start], replacement]
        position = end
    lines = b"".join([*pieces, data[position:]]).splitlines(keepends=True)
    kept = (line.replace(_CUT, b"") for line in lines if _CUT not in line or line.replace(_CUT, b"").strip())
    return b"".join(kept)


def _refused(path: str, why: str, hint: str) -> BundleError:
    return BundleError("release.vm_args", f"{path} {why}", hint)
