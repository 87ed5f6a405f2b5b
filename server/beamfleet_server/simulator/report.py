"""Owns the messages of a simulated device, as PROTOCOL.md has them. Pure; numbers and sending again are `voice`'s."""

from typing import Any

import msgspec

from beamfleet_server import __version__
from beamfleet_server.simulator.fate import Nature
from beamfleet_server.simulator.memory import Memory, Update

SIZE = 10_000_000
"""Bytes that a download has, as far as progress is told."""
_encode = msgspec.json.Encoder().encode


def presence(memory: Memory, nature: Nature, connection: int, online: bool, reason: str, now: int) -> bytes:
    """Birth, will or farewell of a boot's connection number `connection`."""
    return dump({
        "session": memory.boot * 1_000_000 + connection,
        "online": online,
        "reason": reason[:256],
        "time": now,
        "agent": __version__,
        "profile": nature.profile,
        "machine": memory.machine,
        "keepalive_s": nature.keepalive_s,
        **({"interval_s": max(1, round(nature.health_s))} if nature.health_s else {}),
    })  # fmt: skip


def state(memory: Memory, nature: Nature, metadata: dict[str, Any]) -> dict[str, Any]:
    """The content of a state, without its number."""
    target, release = nature.target, memory.running()
    return {
        "slot": memory.slot,
        "previous": memory.previous,
        "manifest": release.manifest if release else "",
        "product": release.product if release else "",
        "version": release.version if release else "",
        "phase": memory.phase,
        "attempt": memory.attempt,
        "sequence": memory.sequence,
        "update": msgspec.structs.asdict(memory.update),
        "starts": memory.starts,
        "cause": memory.cause,
        "power_losses": memory.power_losses,
        "stopped": False,
        "failed": memory.failed,
        "inventory": {
            "agent": __version__, "arch": target.arch, "libc": target.libc, "libc_version": target.libc_version,
            "machine": target.arch, "hardware": target.hardware, "kernel": "simulated", "os": "simulated",
            "python": "", "filesystem": "ext4", "unsafe_filesystem": False, "free_bytes": 1 << 30, "cpus": 2,
            "memory_bytes": 1 << 30, "timezone": nature.timezone, "network": nature.network,
        },
        "metadata": metadata,
    }  # fmt: skip


def progress(update: Update, part: float) -> bytes:
    """How much of the download, 0 to 1, is done."""
    return dump({"manifest": update.manifest, "phase": update.phase, "done": int(SIZE * part), "total": SIZE})


def dump(line: dict[str, Any]) -> bytes:
    """The message as it travels."""
    return _encode({"v": 1, **line})
