"""Owns what setup is told: the words, their types and defaults, and what may stand in them. Pure; asks no disk.

The same words come on standard input and lie in provision.json.
"""

import base64
import binascii
import json
import re
import sys
from typing import Any, NamedTuple

from beamfleet_agent.errors import AgentError

WORDS: dict[str, tuple[type, Any]] = {
    "device": (str, ""),
    "id_from": (str, ""),
    "id_prefix": (str, ""),
    "app": (str, "main"),
    "hardware": (str, ""),
    "server": (dict, {}),
    "ca_pem": (str, None),
    "root_json_base64": (str, None),
    "token": (str, ""),
    "certificate_pem": (str, ""),
    "key_pem": (str, ""),
    "env": (dict, {}),
    "single_user": (bool, False),
    "allow_unsafe_filesystem": (bool, False),
    "trial_s": (int, 30),
    "trial_deadline_s": (int, 0),
    "profile": (str, "wired"),
    "health_interval_s": (int, 0),
    "poll_interval_s": (int, 900),
    "network": (str, ""),
    "proxy": (str, ""),
    "transport": (str, "tcp"),
    "keepalive_s": (int, 0),
    "watchdog": (str, ""),
    "wifi": (dict, {}),
    "apn": (dict, {}),
    "files": (list, []),
    "python": (str, sys.executable),
}
"""What `setup` takes, with types and defaults; None: must be given. One of `device` and `id_from` must be."""
IN_TOML = ("device", "app", "hardware", "trial_s", "profile", "health_interval_s", "poll_interval_s", "single_user",
           "allow_unsafe_filesystem", "network")  # fmt: skip
IN_TOML_IF_GIVEN = ("proxy", "transport", "keepalive_s")
"""Said only where they are not the default: an older agent, whose settings are closed, reads what does without them."""
OURS = ("/usr/lib/beamfleet/", "/var/lib/beamfleet/", "/etc/beamfleet/", "/run/beamfleet/", "/var/run/beamfleet/")
OWNERS = ("/usr/lib/beamfleet/hooks.d/", "/etc/beamfleet/app.d/")
"""What of ours is the owner's to fill."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class GivenFile(NamedTuple):
    """A file of the owner, below the root of the device."""

    path: str
    mode: int
    data: bytes


def checked(words: Any, *, whole: bool = True) -> dict[str, Any]:
    """All words, defaults filled in; whose id it is remains open. Not `whole`: those that must be given may be missing,
    and are empty. Errors `setup.words`, `setup.environment`."""
    if not isinstance(words, dict):
        raise AgentError("setup.words", "the settings are not a JSON object", "give them on standard input")
    if unknown := sorted(set(words) - set(WORDS)):
        raise AgentError("setup.words", f"there is no setting {unknown[0]!r}", f"the settings are {', '.join(WORDS)}")
    given: dict[str, Any] = {}
    for key, (kind, default) in WORDS.items():
        value = words.get(key)
        value = default if value is None else value
        value = kind() if value is None and not whole else value
        if value is None:
            raise AgentError("setup.words", f"the setting {key} is missing", "give it on standard input")
        if type(value) is not kind:
            raise AgentError("setup.words", f"{key} is {type(value).__name__}, not {kind.__name__}")
        given[key] = value
    if not given["device"] and not given["id_from"]:
        raise AgentError("setup.words", "the setting device is missing", "give it, or id_from, on standard input")
    if given["device"] and given["id_from"]:
        raise AgentError("setup.words", "both device and id_from are given", "give one of them")
    for name, value in given["env"].items():
        if not _NAME.fullmatch(name) or not isinstance(value, str) or not value.isprintable():
            hint = "use NAME=VALUE with letters, digits and _ in the name, and a value of one line"
            raise AgentError("setup.environment", f"{name!r} cannot be set in app.env", hint)
    if "BEGIN CERTIFICATE" not in given["ca_pem"] and (whole or given["ca_pem"]):
        raise AgentError("setup.words", "ca_pem is not a certificate in PEM", "give the fleet's authority")
    for key, names in (("wifi", ("ssid", "psk", "country", "interface")), ("apn", ("apn", "user", "password"))):
        _closed(key, given[key], names)
    given["files"] = [_file(entry) for entry in given["files"]]
    return given


def root_json(encoded: str) -> bytes:
    """The root metadata in the word of that name. Error `setup.words`."""
    try:
        data = base64.b64decode(encoded, validate=True)
        if json.loads(data)["signed"]["_type"] != "root":
            raise ValueError
    except (ValueError, KeyError, TypeError):
        hint = "run `beamfleet init` first: it makes and uploads the root"
        raise AgentError("setup.words", "root_json_base64 is not TUF root metadata", hint) from None
    return data


def _closed(key: str, table: dict[str, Any], names: tuple[str, ...]) -> None:
    for name, value in table.items():
        if name not in names or not isinstance(value, str):
            raise AgentError("setup.words", f"{key} has no text {name!r}", f"it takes {', '.join(names)}")


def _file(entry: Any) -> GivenFile:
    match entry:
        case {"path": str(path), "mode": int() | str() as mode, "content_base64": str(content)} if len(entry) == 3:
            pass
        case _:
            hint = "give path, mode and content_base64, and nothing else"
            raise AgentError("setup.words", "an entry of files is not a file", hint)
    parts = path.split("/")
    if not path.startswith("/") or {"", ".", ".."} & set(parts[1:]) or not path.isprintable() or len(path) > 1024:
        raise AgentError("setup.words", f"{path[:80]!r} is no path of a file", "give an absolute one, without . and ..")
    if path.startswith(OURS) and not path.startswith(OWNERS):
        hint = f"files may be laid anywhere else, and below {' and '.join(OWNERS)}"
        raise AgentError("setup.words", f"{path} belongs to beamfleet", hint)
    try:
        bits = int(mode, 8) if isinstance(mode, str) else int(mode)
        data = base64.b64decode(content, validate=True)
    except (ValueError, binascii.Error):
        raise AgentError("setup.words", f"mode or content of {path} cannot be read", "0644, and base64") from None
    if not 0 <= bits <= 0o777:
        raise AgentError("setup.words", f"{path} cannot have the mode {bits:o}", "use 0000 to 0777")
    return GivenFile(path, bits, data)
