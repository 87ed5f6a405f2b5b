"""Owns the rule that nothing is believed before it is durable, held against a trace. Pure: it reads calls, not disks.

A file that was written and not fsynced, or a directory that got a name and was not fsynced, is loose. Findings:
- a rename while what is renamed, or anything below it, is loose
- a report while anything that should last is loose, or while what the report claims does not stand on disk
- a name that readers rely on made in place, or removed, instead of replaced by a rename
Replay of crash states misses absent fsyncs of directories on ext4, xfs and btrfs; this does not.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from tests.crash.tracer import Call

_MAKES = {"open", "creat", "mkdir", "symlink", "link", "mknod"}
_WRITES = {"write", "pwrite64", "writev", "sendfile", "truncate", "ftruncate", "copy_file_range"}


@dataclass(frozen=True, slots=True)
class Claim:
    """What a report says: `path` is there, durable, and holds `fragment`."""

    path: str
    fragment: bytes = b""


@dataclass(frozen=True, slots=True)
class Rules:
    """What one subject promises. Paths are relative to the traced root."""

    lasting: Callable[[str], bool]
    """Whether a path must survive a power cut once it was reported."""
    pointer: Callable[[str], bool]
    """Whether readers rely on this name: it appears by rename, and is never removed."""
    claims: Callable[[Call], list[Claim] | None]
    """What a call reports; None: it is no report."""


class Lint:
    """One disk, over the runs of several processes that follow on each other."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._loose: set[str] = set()
        self._holds: dict[str, bytes] = {}

    def findings(self, calls: Iterable[Call]) -> list[str]:
        """What these calls did wrong, in words; the disk is then as they left it."""
        found: list[str] = []
        for call in calls:
            claims = self._rules.claims(call)
            if claims is not None:
                found += [f"{call.ordinal} {call.name} {call.paths[-1]}: {text}" for text in self._reported(claims)]
            found += [f"{call.ordinal} {call.name} {call.paths[-1]}: {text}" for text in self._made(call)]
        return found

    def _reported(self, claims: list[Claim]) -> Iterable[str]:
        for path in sorted(filter(self._rules.lasting, self._loose)):
            yield f"reported before {path} was durable"
        for claim in claims:
            if claim.path not in self._holds or claim.fragment not in self._holds[claim.path]:
                yield f"reported, but {claim.path} is not there with {claim.fragment.decode().strip()!r}"

    def _made(self, call: Call) -> Iterable[str]:
        path = call.paths[-1]
        if call.name == "syncfs":
            self._loose.clear()
        elif call.name in {"fsync", "fdatasync"}:
            self._loose.discard(path)
        elif call.name in {"unlink", "rmdir"}:
            if self._rules.pointer(path):
                yield "removed instead of replaced"
            self._forget(path)
        elif call.name == "rename" or (call.name == "rename_if_free" and call.fresh):
            yield from self._renamed(*call.paths)
        elif call.name in _WRITES:
            self._loose.add(path)
            self._holds[path] = self._holds.get(path, b"") + call.data
        elif call.name in _MAKES and call.fresh:
            if self._rules.pointer(path):
                yield "made in place instead of renamed into it"
            self._loose |= {_folder(path), *((path,) if call.name in {"open", "creat"} else ())}
            self._holds[path] = b""

    def _renamed(self, old: str, new: str) -> Iterable[str]:
        if self._rules.lasting(new):
            for path in sorted(path for path in self._loose if _within(path, old)):
                yield f"renamed before {path} was durable"
        moved = {path: data for path, data in self._holds.items() if _within(path, old)}
        loose = {path for path in self._loose if _within(path, old)}
        self._forget(old)
        self._forget(new)
        self._holds |= {new + path[len(old) :]: data for path, data in moved.items()}
        self._loose |= {new + path[len(old) :] for path in loose}
        if self._rules.lasting(new):
            self._loose.add(_folder(new))

    def _forget(self, path: str) -> None:
        self._loose = {one for one in self._loose if not _within(one, path)}
        self._holds = {one: data for one, data in self._holds.items() if not _within(one, path)}


def _folder(path: str) -> str:
    return str(PurePosixPath(path).parent)


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")
