"""Owns the one way in which this machine's own beamfleet-agent lays a device down below a root: a child process that
reads its words on stdin. No secret is ever in an argument. Writes nothing itself.
"""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beamfleet_server.flash.errors import FlashError, SetupError

TIMEOUT_S = 300
_OPTIONS = {
    "trial_deadline_s": "--trial-deadline-s",
    "trial_s": "--trial-s",
    "keepalive_s": "--keepalive",
    "health_interval_s": "--health-interval",
    "id_prefix": "--id-prefix",
    "the country of wifi": "--wifi-country",
    "the psk of wifi": "the content of --wifi-psk-file",
    "wifi needs an ssid": "--wifi-ssid takes",
    "leave wifi and apn": "leave --wifi-ssid and --apn",
    "apn is no name": "--apn is no name",
    "certificate_pem and key_pem": "--cert and --key",
}
"""What the agent calls a setting, and the option that says it."""


def at_hand() -> bool:
    """Whether there is an agent beside this Python."""
    return importlib.util.find_spec("beamfleet_agent") is not None


def require() -> None:
    """Error: `flash.agent_missing`."""
    if not at_hand():
        text = f"beamfleet-agent is not installed beside {sys.executable}"
        raise FlashError("flash.agent_missing", text, "pip install beamfleet-agent")


def set_up(root: Path, words: Mapping[str, Any], held: Sequence[int] = ()) -> dict[str, Any]:
    """`beamfleet-agent setup --root ROOT`; what it says it did. Its own error, or `flash.agent_failed`.

    It keeps the descriptors `held` open, and with them their locks, should this process die before it."""
    return _run(["--root", str(root)], words, held)


def check(root: Path | None, words: Mapping[str, Any]) -> None:
    """Have the agent beside this Python refuse what its setup would refuse of the words, if there is one; `root`: where
    it can be looked at. Nothing is written. Its own error, in which settings have the names of the options."""
    if not at_hand():
        return
    try:
        _run(["--check", *(["--root", str(root)] if root else [])], words, ())
    except SetupError as error:
        raise SetupError(error.code, _with_options(error.message), _with_options(error.hint)) from None


def _run(options: Sequence[str], words: Mapping[str, Any], held: Sequence[int]) -> dict[str, Any]:
    require()
    command = [sys.executable, "-m", "beamfleet_agent", "setup", *options]
    try:
        done = subprocess.run(
            command, input=json.dumps(words), capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
            pass_fds=held,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        text = f"beamfleet-agent setup has not ended in {TIMEOUT_S} s"
        raise FlashError("flash.agent_failed", text, "flash again; it is safe to repeat") from None
    return answer(done.returncode, done.stdout, done.stderr)


def _with_options(text: str) -> str:
    for word, option in _OPTIONS.items():
        text = re.sub(rf"\b{word}\b", option, text)
    return text


def answer(code: int, stdout: str, stderr: str) -> dict[str, Any]:
    """What a setup said that has ended, here or on a device; its error with its own code, or `flash.agent_failed`."""
    try:
        said = json.loads(stdout)
        if code == 0 and isinstance(said, dict):
            return said
        error = said["error"]
        refused = tuple(str(error.get(key, "")) for key in ("code", "message", "hint"))
    except (ValueError, KeyError, TypeError, AttributeError):
        last = stderr.strip().rpartition("\n")[2] or f"exit code {code}"
        hint = "flash again; it is safe to repeat"
        raise FlashError("flash.agent_failed", f"beamfleet-agent setup failed: {last}", hint) from None
    raise SetupError(*refused)
