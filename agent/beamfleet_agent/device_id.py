"""Owns working out a device's id from what is the machine's own: machine-id, serial number, MAC or the owner's command.

The same machine always gets the same id, another one another: what vendors leave in place of a number is none, and a
machine-id that lasts for one boot only is none either. Never asks a network, never writes.
"""

import hashlib
import hmac
import os
import re
import subprocess
import time

from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.names import check_device

from beamfleet_agent.errors import AgentError

SOURCES = ("machine-id", "serial", "mac", "command:PATH")
SERIALS = ("/proc/device-tree/serial-number", "/sys/class/dmi/id/product_serial", "/sys/class/dmi/id/board_serial")
NO_SERIAL = re.compile(
    r"to be filled.*|default string|none|not .*|system serial.*|serial ?number|oem|n/a|[0x. -]*", re.IGNORECASE
)
MAC_S = 30.0
"""How long a network card may take to appear after the boot."""
COMMAND_S = 60.0
MAX_OUTPUT = 4_096
ETHERNET = "1"
PERMANENT = "0"


def candidates(source: str, prefix: str = "", root: str = "") -> list[str]:
    """Ids that this machine can be called by, the one to take first. With several network cards it has several.

    root: where /etc, /proc and /sys of the machine lie. Errors: `setup.words`, `setup.no_id`.
    """
    kind, _, path = source.partition(":")
    match kind:
        case "machine-id" if source == kind:
            found = [_machine_id(root)]
        case "serial" if source == kind:
            found = [_serial(root)]
        case "mac" if source == kind:
            found = _macs_in_time(root)
        case "command" if path.startswith("/"):
            found = [_said_by(path)]
        case _:
            hint = f"use one of {', '.join(SOURCES)}"
            raise AgentError("setup.words", f"id_from = {source[:80]!r} is no source of ids", hint)
    return [_as_id(text, prefix, source) for text in found]


def _as_id(text: str, prefix: str, source: str) -> str:
    spelled = prefix + re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    try:
        return check_device(spelled)
    except BundleError as error:
        hint = "give id_prefix and what the source says such that they make 1 to 63 letters, digits and dashes"
        raise AgentError("setup.no_id", f"{source} makes {spelled[:80]!r}, which is no device id", hint) from error


def _machine_id(root: str) -> str:
    """Not the id itself, which is to stay on the machine: 20 hex digits that follow from it."""
    text = _line(f"{root}/etc/machine-id")
    if not re.fullmatch(r"[0-9a-f]{32}", text):
        raise _none("/etc/machine-id holds none", "let systemd make one: leave the file empty in the image")
    if _is_mount(f"{root}/etc/machine-id"):
        hint = "make /etc writable, or take another source of ids"
        raise _none("the machine-id lasts until the next boot only", hint)
    return hmac.digest(text.encode(), b"beamfleet", hashlib.sha256).hex()[:20]


def _serial(root: str) -> str:
    lines = [_line(f"{root}{place}") for place in SERIALS]
    lines += re.findall(r"^Serial\s*:\s*(\S+)$", _text(f"{root}/proc/cpuinfo"), re.MULTILINE)
    for text in lines:
        if not NO_SERIAL.fullmatch(text):
            return text
    raise _none("this machine tells no serial number", "take another source of ids, such as mac")


def _macs_in_time(root: str) -> list[str]:
    """Cards may still be found when we are asked."""
    limit = time.monotonic() + (MAC_S if not root else 0)
    while not (found := _macs(root)):
        if time.monotonic() > limit:
            raise _none("there is no network card with an address of its own", "take another source of ids")
        time.sleep(0.5)
    return found


def _macs(root: str) -> list[str]:
    """Addresses that are burnt in, of cards and not of bridges; those with a cable before those without."""
    folder = f"{root}/sys/class/net"
    found = []
    for name in sorted(os.listdir(folder) if os.path.isdir(folder) else ()):
        card = f"{folder}/{name}"
        facts = (_line(f"{card}/type"), _line(f"{card}/addr_assign_type"))
        address = _line(f"{card}/address").replace(":", "")
        if facts == (ETHERNET, PERMANENT) and os.path.exists(f"{card}/device") and address.strip("0"):
            found.append((os.path.exists(f"{card}/phy80211"), address))
    return [address for _, address in sorted(found, key=lambda pair: pair[0])]


def _said_by(path: str) -> str:
    try:
        done = subprocess.run(
            [path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=COMMAND_S,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        why = "did not end in time" if isinstance(error, subprocess.TimeoutExpired) else f"cannot run: {error.strerror}"
        raise _none(f"{path} {why}", "it is run as root, without arguments") from error
    text = done.stdout[:MAX_OUTPUT].decode("utf-8", "replace").strip()
    if done.returncode != 0 or not text or len(text.splitlines()) > 1:
        raise _none(f"{path} ended with {done.returncode} and not one line", "it prints one line and ends with 0")
    return text


def _line(path: str) -> str:
    return _text(path).strip("\0\n ")


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 16).decode("utf-8", "replace")
    except OSError:
        return ""


def _is_mount(path: str) -> bool:
    return any(line.split()[4] == path for line in _text("/proc/self/mountinfo").splitlines())


def _none(message: str, hint: str) -> AgentError:
    return AgentError("setup.no_id", message, hint)
