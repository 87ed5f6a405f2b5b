"""Owns what Wi-Fi and modem settings look like in the files of the service that the device has for them.

NetworkManager's keyfiles, or wpa_supplicant beside systemd-networkd; a modem only by NetworkManager with ModemManager.
What the device has not is refused and never guessed. Files have the mode that their secrets want. Writes nothing.
"""

import contextlib
import glob
import hashlib
import os
import re
import shutil
import subprocess
import uuid

from beamfleet_agent import system_root
from beamfleet_agent.errors import AgentError
from beamfleet_agent.setup_words import GivenFile

KEYFILES = "/etc/NetworkManager/system-connections"
REGION = "/etc/modprobe.d/beamfleet-wifi.conf"
STATE = "/var/lib/NetworkManager/NetworkManager.state"
_SPACE = uuid.UUID("2a3c1a52-0a9c-4bd3-9ac0-4b1f9a3f6d11")
_HEED_S = 20


def wifi(root: str, words: dict[str, str]) -> tuple[list[GivenFile], dict[str, str]]:
    """(files, links) that join the network. Errors: `setup.words`, `setup.no_network`."""
    ssid, psk, country = _network(words)
    links: dict[str, str] = {}
    if system_root.command(root, "NetworkManager"):
        files = [_keyfile("wifi", _wifi_sections(ssid, psk))]
    elif system_root.command(root, "wpa_supplicant") and _has_networkd(root):
        files, links = _supplicant(words.get("interface") or "wlan0", ssid, psk, country)
    else:
        hint = "install NetworkManager, or wpa_supplicant beside systemd-networkd; or lay files of your own with --file"
        raise AgentError("setup.no_network", f"nothing in {root or '/'} that we know joins a Wi-Fi network", hint)
    if country:
        files += [GivenFile(REGION, 0o644, f"options cfg80211 ieee80211_regdom={country}\n".encode())]
        files += _unblocked(root)
    return files, links


def modem(root: str, words: dict[str, str]) -> list[GivenFile]:
    """The files that make a modem dial. Errors: `setup.words`, `setup.no_network`."""
    name = _access_point(words)
    if not system_root.command(root, "NetworkManager") or not system_root.command(root, "ModemManager"):
        hint = "install NetworkManager and ModemManager, or lay files of your own with --file"
        raise AgentError("setup.no_network", f"nothing in {root or '/'} that we know makes a modem dial", hint)
    gsm = {"apn": name, "username": words.get("user", ""), "password": words.get("password", "")}
    return [_keyfile("gsm", {"gsm": {key: value for key, value in gsm.items() if value}})]


def check(wifi: dict[str, str], modem: dict[str, str]) -> None:
    """Refuse words that no service could take, whichever a device has; {}: there is no such network. Error
    `setup.words`."""
    if wifi:
        _network(wifi)
    if modem:
        _access_point(modem)


def heed() -> None:
    """Have the services of this machine look at their files now; at its next boot they do anyway."""
    if not os.path.isdir("/run/systemd/system"):
        return
    commands = (
        ["nmcli", "connection", "reload"],
        ["systemctl", "daemon-reload"],
        *(["systemctl", "start", "--no-block", name] for name in _supplicant_units()),
    )
    for command in commands:
        if shutil.which(command[0]):
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_HEED_S)


def _access_point(words: dict[str, str]) -> str:
    name = words.get("apn", "")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", name):
        raise AgentError("setup.words", "apn is no name of an access point", "letters, digits, dots and dashes")
    for key in ("user", "password"):
        if not words.get(key, "").isprintable() or len(words.get(key, "")) > 64:
            raise AgentError("setup.words", f"the {key} of apn is not a line of text", "use at most 64 characters")
    return name


def _network(words: dict[str, str]) -> tuple[bytes, str, str]:
    ssid, psk, country = words.get("ssid", "").encode(), words.get("psk", ""), words.get("country", "")
    if not 1 <= len(ssid) <= 32:
        raise AgentError("setup.words", "wifi needs an ssid of 1 to 32 bytes", 'such as "Plant 3"')
    if psk and not re.fullmatch(r"[ -~]{8,63}|[0-9a-fA-F]{64}", psk):
        hint = "a passphrase has 8 to 63 ASCII characters, a key 64 hex digits; none at all is an open network"
        raise AgentError("setup.words", "the psk of wifi is neither a passphrase nor a key", hint)
    if country and not re.fullmatch(r"[A-Z]{2}", country):
        raise AgentError("setup.words", "the country of wifi is not a code of two letters", "such as DE")
    if not re.fullmatch(r"[a-z][a-z0-9_.-]{0,14}", words.get("interface") or "wlan0"):
        raise AgentError("setup.words", "the interface of wifi is no name of one", "such as wlan0")
    return ssid, psk, country


def _wifi_sections(ssid: bytes, psk: str) -> dict[str, dict[str, str]]:
    network = {"mode": "infrastructure", "ssid": "".join(f"{byte};" for byte in ssid)}
    return {"wifi": network} | ({"wifi-security": {"key-mgmt": "wpa-psk", "psk": psk}} if psk else {})


def _keyfile(kind: str, sections: dict[str, dict[str, str]]) -> GivenFile:
    name = f"beamfleet-{kind}"
    about = {"id": name, "uuid": str(uuid.uuid5(_SPACE, kind)), "type": kind, "autoconnect": "true"}
    whole = {"connection": about, **sections, "ipv4": {"method": "auto"}, "ipv6": {"method": "auto"}}
    text = "\n".join(
        f"[{section}]\n" + "".join(f"{key}={_escaped(value)}\n" for key, value in lines.items())
        for section, lines in whole.items()
    )
    return GivenFile(f"{KEYFILES}/{name}.nmconnection", 0o600, text.encode())


def _escaped(value: str) -> str:
    """As GLib reads it: a backslash begins something, blanks at either end would be lost."""
    value = value.replace("\\", "\\\\")
    blanks = len(value) - len(value.lstrip(" "))
    return "\\s" * blanks + value[blanks:]


def _has_networkd(root: str) -> bool:
    return any(
        os.path.lexists(f"{root}{folder}/systemd/system/systemd-networkd.service") for folder in ("/usr/lib", "/lib")
    )


def _supplicant(interface: str, ssid: bytes, psk: str, country: str) -> tuple[list[GivenFile], dict[str, str]]:
    if '"' in psk:  # it would cut the passphrase at one that a # follows
        psk = hashlib.pbkdf2_hmac("sha1", psk.encode(), ssid, 4096, 32).hex()
    secret = f'psk="{psk}"' if len(psk) < 64 else f"psk={psk}"
    lines = [
        "ctrl_interface=/run/wpa_supplicant",
        *([f"country={country}"] if country else []),
        "network={",
        f"\tssid={ssid.hex()}",
        "\tscan_ssid=1",
        f"\t{secret if psk else 'key_mgmt=NONE'}",
        "}",
    ]
    network = f"[Match]\nName={interface}\n\n[Network]\nDHCP=yes\n"
    files = [
        GivenFile(f"/etc/wpa_supplicant/wpa_supplicant-{interface}.conf", 0o600, ("\n".join(lines) + "\n").encode()),
        GivenFile("/etc/systemd/network/25-beamfleet-wifi.network", 0o644, network.encode()),
    ]
    wants = "/etc/systemd/system/multi-user.target.wants"
    links = {
        f"{wants}/wpa_supplicant@{interface}.service": "/usr/lib/systemd/system/wpa_supplicant@.service",
        f"{wants}/systemd-networkd.service": "/usr/lib/systemd/system/systemd-networkd.service",
    }
    return files, links


def _supplicant_units() -> list[str]:
    links = glob.glob("/etc/systemd/system/multi-user.target.wants/wpa_supplicant@*.service")
    return [*(os.path.basename(link) for link in links), *(["systemd-networkd.service"] if links else [])]


def _unblocked(root: str) -> list[GivenFile]:
    """Some images keep the radio off until somebody has said in which country it is: now it was said."""
    switches = glob.glob(f"{glob.escape(root)}/var/lib/systemd/rfkill/*:wlan")
    found = [GivenFile(place.removeprefix(root), 0o644, b"0\n") for place in switches]
    try:
        with open(system_root.inside(root, STATE), encoding="utf-8") as file:
            state = file.read()
    except OSError:
        return found
    if "WirelessEnabled=false" in state:
        state = state.replace("WirelessEnabled=false", "WirelessEnabled=true")
        found.append(GivenFile(STATE, 0o600, state.encode()))
    return found
