"""Owns the claim of one agent to one root: a lock that dies with its process, and the pid that others may read.

Whoever acts as the agent is the agent's user first: a file that root left among the agent's would lock it out for good.
"""

import fcntl
import os
import time

from beamfleet_agent.errors import AgentError
from beamfleet_agent.paths import Paths


def claim(paths: Paths) -> int:
    """Become the agent's user and take the lock; the descriptor holds it as long as this process lives.

    It is never inherited. Errors: `agent.already_running` with the pid of the first, `agent.not_set_up`.
    """
    become_owner(paths)
    try:
        descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.makedirs(paths.run, exist_ok=True)  # what lies below it for the application is the launcher's to make
    except OSError as error:
        hint = "lay the device down with `beamfleet flash --root DIR`"
        raise AgentError("agent.not_set_up", f"cannot open {paths.lock}: {error.strerror}", hint) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = _holder(descriptor)
        os.close(descriptor)
        hint = "one agent serves one root; talk to it with `beamfleet-agent status`"
        raise AgentError("agent.already_running", f"agent {pid} serves {paths.root or '/'} already", hint) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    with open(paths.agent_pid, "w", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    return descriptor


def become_owner(paths: Paths) -> None:
    """Give up being root where the agent has a user of its own: the owner of identity/, as `setup` made it.

    Before that, the run directory is made as tmpfiles makes it: without systemd nobody else does after a boot.
    """
    if os.geteuid() != 0:
        return
    try:
        owner = os.stat(paths.identity)
    except OSError:
        return  # not set up: what comes next says so
    if owner.st_uid != 0:
        os.makedirs(paths.run, exist_ok=True)
        os.chown(paths.run, 0, owner.st_gid)
        os.chmod(paths.run, 0o1775)  # noqa: S103 - sticky
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)


def disclaim(paths: Paths) -> None:
    """Take the pid away; the lock goes with the process."""
    try:
        os.unlink(paths.agent_pid)
    except OSError:
        pass


def holder(paths: Paths) -> str:
    """The pid of the agent that serves this root, "" if none does; claims nothing."""
    return holder_of(paths.lock)


def holder_of(lock: str) -> str:
    """What stands in a lock file that somebody holds, "" if nobody does."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "?"
    finally:
        os.close(descriptor)
    return ""


def _holder(descriptor: int) -> str:
    """The pid in the lock; who has just taken it writes that a moment later."""
    pid = ""
    for _ in range(20):
        pid = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        if pid.isdecimal() and os.path.exists(f"/proc/{pid}"):
            break
        time.sleep(0.05)
    return pid or "?"
