"""Owns looking into a root file system, which may be of a machine that does not run or of another architecture.

Its accounts, its commands, and whether a path stays inside it. Runs nothing of it, never follows a link out of it,
never writes. `root` "" is the machine itself.
"""

import os
import pwd
from typing import NamedTuple

from beamfleet_agent.errors import AgentError

FOLDERS = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")


class Account(NamedTuple):
    """A user as files know it."""

    name: str
    uid: int
    gid: int


def account(root: str, name: str) -> Account | None:
    """The user `name` of that system; None when there is none."""
    if not root:
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            return None
        return Account(name, found.pw_uid, found.pw_gid)
    try:
        with open(inside(root, "/etc/passwd"), encoding="utf-8", errors="replace") as file:
            for line in file:
                match line.rstrip("\n").split(":"):
                    case [found_name, _, uid, gid, *_] if found_name == name and uid.isdecimal() and gid.isdecimal():
                        return Account(name, int(uid), int(gid))
    except OSError:
        pass
    return None


def command(root: str, name: str) -> str:
    """The path of a command as that system names it, "" when it has none; of the target of a link nothing is said."""
    for folder in FOLDERS:
        try:
            place = inside(root, f"/{folder}")
        except AgentError:
            continue  # a link to an absolute path, which the other folders have as well
        if os.path.lexists(f"{place}/{name}"):
            return f"/{folder}/{name}"
    return ""


def is_busybox(root: str, path: str) -> bool:
    """Whether the command at this path of that system is an applet."""
    try:
        return os.path.basename(os.readlink(root + path)) == "busybox"
    except OSError:
        return False


def inside(root: str, path: str) -> str:
    """Where the `path` of that system lies for us. Error `setup.directory` when a link on the way leads out of it."""
    place = root + path
    if root:
        within, real = os.path.realpath(root), os.path.realpath(place)
        if os.path.commonpath((within, real)) != within:
            hint = "make the link a relative one, or run setup on the device itself"
            raise AgentError("setup.directory", f"{place} leads out of {root}, to {real}", hint)
    return place
