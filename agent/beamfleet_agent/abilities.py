"""Owns the question whether this system's sh and tools can do what the launcher asks of them; changes nothing.

Each ability is tried, not looked up: BusyBox has most tools, in builds that differ. Only of a system that is off the
names are looked up. What is missing is refused when the device is laid down, with the remedy, and not found out at
night in a field.
"""

import os
import shutil
import subprocess
import tempfile

from beamfleet_agent import system_root
from beamfleet_agent.errors import AgentError

ABILITIES = {
    "flock": "exec 9>lock && flock -n 9",
    "sync FILE": "echo x >file && sync file && sync .",
    "mv -T": "ln -s a link1 && ln -s b link2 && mv -fT link1 link2 && [ -L link2 ]",
    "mkfifo -m": "mkfifo -m 0620 fifo && [ -p fifo ]",
    "timeout -k": "timeout -k 1 9 true",
    "head -c": '[ "$(head -c 3 /dev/zero | tail -c 1 | wc -c)" = 1 ]',
    "dd": "echo | dd bs=1k count=1 2>/dev/null >copy && [ -s copy ]",
    "sha256sum": "[ \"$(echo | sha256sum | cut -d ' ' -f 1 | wc -c)\" = 65 ]",
    "ls -ldn": 'set -- $(ls -ldn .) && [ "$3" = "$(id -u)" ]',
    "grep -lszF": '[ "$(grep -lszF BEAMFLEET=b /dev/null /proc/self/environ)" = /proc/self/environ ]',
    "grep -vE": "[ \"$(echo a | grep -vE '^(b|c)$')\" = a ]",
    "readlink, sed, tr": "[ -n \"$(readlink /proc/self/cwd | sed -n '1p' | tr -d x)\" ]",
    "awk ENVIRON": '[ "$(awk \'BEGIN { print ENVIRON["BEAMFLEET"] }\')" = b ]',
    "sleep 0.05": "sleep 0.05",
    "id, date, env -i": 'id -u >/dev/null && date +%s >/dev/null && env -i PATH="$PATH" true',
    "test -O and -nt": "[ -O . ] && : >old && [ ! old -nt old ]",
    "command exec": "! command exec 8<missing",
}
"""What is needed, and a few words of sh that do it in an empty directory, with BEAMFLEET=b in the environment."""
AS_USER = {"setpriv --reuid": '"$SETPRIV" --reuid 0 --regid 0 --clear-groups --no-new-privs true'}
"""Needed where the release runs as a user of its own."""
ALONE = {"setsid": "setsid true"}
"""Needed where nothing restarts the launcher."""


COMMANDS = (
    "sh", "flock", "sync", "ln", "mv", "mkfifo", "timeout", "true", "head", "tail", "wc", "dd", "sha256sum", "cut",
    "ls", "grep", "readlink", "sed", "tr", "awk", "sleep", "id", "date", "env",
)  # fmt: skip
"""What a system must have that is off and cannot be tried."""


def setpriv(root: str = "") -> str:
    """The path of util-linux's setpriv: a BusyBox shell would take its own applet for the bare name."""
    found = system_root.command(root, "setpriv") if root else shutil.which("setpriv")
    return found or "setpriv"


def missing(*, as_user: bool, alone: bool = False) -> list[str]:
    """The names of the abilities that are not here; empty when the launcher can run."""
    wanted = ABILITIES | (AS_USER if as_user else {}) | (ALONE if alone else {})
    return [name for name, words in wanted.items() if not _can(words)]


def missing_in(root: str, *, as_user: bool) -> list[str]:
    """The commands that the system in the directory `root` lacks. It is off, so this is a matter of their names."""
    lacking = [name for name in COMMANDS if not system_root.command(root, name)]
    found = system_root.command(root, "setpriv")
    return lacking + (["setpriv"] if as_user and (not found or system_root.is_busybox(root, found)) else [])


def require(*, as_user: bool, root: str = "") -> None:
    """Error: `setup.tools` with the names of what is missing on this machine, or in a system at `root` that is off."""
    if lacking := missing_in(root, as_user=as_user) if root else missing(as_user=as_user):
        hint = "install util-linux and coreutils, or a BusyBox with these applets (flock, setpriv: from util-linux)"
        raise AgentError("setup.tools", f"the launcher needs, and this system cannot: {', '.join(lacking)}", hint)


def _can(words: str) -> bool:
    with tempfile.TemporaryDirectory(prefix="beamfleet-") as empty:
        try:
            done = subprocess.run(
                ["sh", "-c", words], cwd=empty, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "BEAMFLEET": "b", "SETPRIV": setpriv()},
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return False
    return done.returncode == 0
