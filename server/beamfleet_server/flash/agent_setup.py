"""Owns the one way in which this machine's own beamfleet-agent lays a device down below a root: a child process that
reads its words on stdin. No secret is ever in an argument. Writes nothing itself.
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beamfleet_server.flash.errors import FlashError, SetupError

TIMEOUT_S = 300


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
    require()
    command = [sys.executable, "-m", "beamfleet_agent", "setup", "--root", str(root)]
    try:
        done = subprocess.run(
            command, input=json.dumps(words), capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
            pass_fds=held,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        text = f"beamfleet-agent setup has not ended in {TIMEOUT_S} s"
        raise FlashError("flash.agent_failed", text, "flash again; it is safe to repeat") from None
    return answer(done.returncode, done.stdout, done.stderr)


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
