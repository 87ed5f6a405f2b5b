"""Owns where this device is: its time zone, and the class of the network that it reaches the world by. Only reads.

Part of the resident agent, which looks each time that it takes a sample: a few small files, nothing imported. What
cannot be told from them, such as a modem that poses as an Ethernet card, the owner says in agent.toml (`network`).
"""

import os
from typing import NamedTuple

NETWORKS = ("wired", "wifi", "cellular", "unknown")
_LETTERS = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_+-")
_ETHERNET, _PPP, _RAW_IP = "1", "512", "519"
"""Kinds of interface, as /sys/class/net/IF/type numbers them."""
_UP, _REJECT = 0x1, 0x200
"""Flags of a route."""


class Place(NamedTuple):
    """`timezone` as the IANA names it, or empty; `network` is one of NETWORKS."""

    timezone: str
    network: str


def look(said: str = "", root: str = "") -> Place:
    """Where the device is now. said: the owner's word for its network, over what is found. root: whose /etc, /proc."""
    return Place(timezone(os.environ.get("TZ", ""), root), said or network(root))


def timezone(variable: str = "", root: str = "") -> str:
    """The zone of the variable TZ, else the one that the C library takes, else the one that Debian writes down."""
    try:
        linked = os.readlink(f"{root}/etc/localtime")
    except OSError:  # a copy: it does not say of what
        linked = ""
    for text in (variable, linked, _read(f"{root}/etc/timezone")):
        if name := _zone(text, root):
            return name
    return ""


def network(root: str = "") -> str:
    """The class of the interface that the default route leads to."""
    interface = _outward(root)
    here = f"{root}/sys/class/net/{interface}"
    if not interface:
        return "unknown"
    said = dict(line.partition("=")[::2] for line in _read(f"{here}/uevent").splitlines())
    device, kind = said.get("DEVTYPE", ""), _read(f"{here}/type").strip()
    if device == "wlan" or os.path.exists(f"{here}/wireless") or os.path.exists(f"{here}/phy80211"):
        return "wifi"
    if device == "wwan" or kind in (_PPP, _RAW_IP) or interface.startswith(("wwan", "rmnet")):
        return "cellular"
    return "wired" if kind == _ETHERNET else "unknown"


def _outward(root: str) -> str:
    """The interface of the default route with the lowest metric; one of IPv6 where IPv4 has none."""
    found = list[tuple[int, str]]()
    for line in _read(f"{root}/proc/net/route").splitlines()[1:]:
        words = line.split()
        if len(words) > 7 and words[1] == words[7] == "00000000" and _leads(words[3]):
            found.append((int(words[6]), words[0]))
    if not found:
        for line in _read(f"{root}/proc/net/ipv6_route").splitlines():
            words = line.split()
            if len(words) > 9 and not words[0].strip("0") and words[1] == "00" and _leads(words[8]):
                found.append((int(words[5], 16), words[9]))
    return min(found)[1] if found else ""


def _leads(flags: str) -> bool:
    return int(flags, 16) & (_UP | _REJECT) == _UP


def _zone(text: str, root: str) -> str:
    """The name in `Europe/Berlin`, `:Europe/Berlin` or `/usr/share/zoneinfo/Europe/Berlin`; no rule such as CET-1."""
    name = text.strip().rpartition("zoneinfo/")[2].removeprefix(":")
    for other in ("posix/", "right/"):
        name = name.removeprefix(other)
    parts = name.split("/")
    fits = len(name) <= 64 and name[:1].isalpha() and all(part[:1].isalnum() for part in parts)
    if not fits or not all(_LETTERS.issuperset(part) for part in parts):
        return ""
    known = len(parts) > 1 or name == "UTC" or os.path.exists(f"{root}/usr/share/zoneinfo/{name}")
    return name if known else ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(16_384)
    except OSError:
        return ""
