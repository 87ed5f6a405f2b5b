"""Owns the draw: a number for each device that is as good as random, and the same again every time.

A device has one lot, from its id; a salt mixes the lots anew. So a database that keeps the lots can order and share out
devices for any salt with whole numbers below 2^63.
"""

from functools import lru_cache
from hashlib import sha256

P = 2**31 - 1
"""A prime; lots and draws are below it."""


def lot(device: str) -> int:
    """The lot of a device, kept with it."""
    return int.from_bytes(sha256(device.encode()).digest()[:4], "big") % P


@lru_cache(maxsize=256)
def mixed(salt: str) -> tuple[int, int]:
    """(a, b) of `draw`."""
    digest = sha256(salt.encode()).digest()
    return 1 + int.from_bytes(digest[:4], "big") % (P - 1), int.from_bytes(digest[4:8], "big") % P


def draw(salt: str, device: str) -> int:
    """The draw of a device, 0 to P - 1: (a * lot + b) % P."""
    a, b = mixed(salt)
    return (a * lot(device) + b) % P


def bound(percent: int) -> int:
    """Devices with a draw below this are the `percent` (0 to 100) of all; a higher percentage has those of a lower
    one."""
    return P * percent // 100


def within(percent: int, salt: str, device: str) -> bool:
    """Whether the device is of the `percent`."""
    return draw(salt, device) < bound(percent)
