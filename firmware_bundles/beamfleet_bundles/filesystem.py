"""Owns the question whether a filesystem survives a power cut: journal or copy-on-write, not RAM, not a network.

ext2 and ext4 without a journal break even a correct rename; so do overlays whose upper layer we cannot see. Never
writes.
"""

import os
from typing import NamedTuple

SAFE = frozenset({"xfs", "btrfs", "f2fs", "zfs", "bcachefs", "ubifs", "nilfs2", "jfs", "reiserfs"})
JOURNALLED = frozenset({"ext3", "ext4"})
"""Safe if they have a journal, which is a matter of how they were made."""


class Mount(NamedTuple):
    """The filesystem that holds a path. `why` says in a few words why it is not safe; empty when it is."""

    kind: str
    point: str
    why: str

    @property
    def safe(self) -> bool:
        """Whether renames and fsync hold through a power cut."""
        return not self.why


def mount_of(path: str) -> Mount:
    """The mount under an existing `path`."""
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    kind, point = "unknown", "/"
    real = os.path.realpath(path) + "/"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            _, _, mounted, _, there, *_ = left.split()
            held = mounted == number or right.startswith("btrfs ")  # whose subvolumes have numbers of their own
            if held and real.startswith(there.rstrip("/") + "/") and len(there) >= len(point):
                kind, point = right.split()[0], there
    return Mount(kind, point, _why_unsafe(kind, os.path.basename(os.path.realpath(f"/sys/dev/block/{number}"))))


def why_unsafe(kind: str, journal: bool | None) -> str:
    """Why a filesystem of this kind is not safe, empty when it is; `journal` matters for the kinds that may have one,
    and None, not known, is none."""
    if kind in SAFE or (kind in JOURNALLED and journal):
        return ""
    return f"this {kind} was made without a journal" if kind in JOURNALLED else f"{kind} has no journal"


def _why_unsafe(kind: str, device: str) -> str:
    return why_unsafe(kind, kind in JOURNALLED and _has_journal(device))


def _has_journal(device: str) -> bool:
    try:
        with open(f"/sys/fs/ext4/{device}/journal_task", encoding="ascii") as file:
            return file.read().strip().isdecimal()
    except OSError:
        pass
    try:
        journals = os.listdir("/proc/fs/jbd2")
    except OSError:
        journals = []
    return any(name.rpartition("-")[0] == device for name in journals)
