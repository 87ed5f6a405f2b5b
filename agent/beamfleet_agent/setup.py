"""Owns laying a device down: directories, settings, launcher, and for a device in a directory the script that runs it.

Safe to repeat: what identifies the device (key, certificate, trust, slots, journal) is never touched, everything else
is brought to what is asked. Refuses a filesystem that a power cut may damage, unless that is allowed. Enrols nothing.
"""

import base64
import json
import os
import pwd
import re
import shlex
import sys
from importlib import resources
from pathlib import Path
from typing import Any

from beamfleet_bundles import durable, pki
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.filesystem import Mount, mount_of

from beamfleet_agent import abilities, settings
from beamfleet_agent.errors import AgentError
from beamfleet_agent.paths import Paths

WORDS: dict[str, tuple[type, Any]] = {
    "device": (str, None),
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
    "watchdog": (str, ""),
    "python": (str, sys.executable),
}
"""What `setup` takes, with types and defaults; None: must be given."""
IN_TOML = ("device", "app", "hardware", "trial_s", "profile", "health_interval_s", "poll_interval_s", "single_user",
           "allow_unsafe_filesystem", "network")  # fmt: skip
SCRIPTS = ("launcher", "state", "rules", "vm", "start", "strangers", "hooks", "errand", "watchdog")
DEVICE_FILES = dict.fromkeys(SCRIPTS, 0o755) | {"beamfleet_link.beam": 0o644}
AGENT_USER, APP_USER = "beamfleet", "beamfleet-app"
START_MARGIN_S = 10
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def set_up(root: str, words: Any) -> dict[str, Any]:
    """Lay the device down in `root` ("" is the machine itself). Errors: `setup.*`, `agent.settings`."""
    given = _checked(words)
    paths = Paths(root, given["app"])
    document = {key: given[key] for key in IN_TOML} | ({"server": given["server"]} if given["server"] else {})
    settings.check(document)
    deadline_s = given["trial_deadline_s"] or max(60, 2 * given["trial_s"] + START_MARGIN_S)
    if deadline_s < given["trial_s"] + START_MARGIN_S:
        hint = f"use at least trial_s + {START_MARGIN_S}: the release has to start before it can be well"
        raise AgentError("setup.words", f"trial_deadline_s = {deadline_s} is too short for trial_s", hint)
    root_json = _root_json(given["root_json_base64"])
    pair = _pair(given, Path(paths.pair))
    mount = _filesystem(paths, given["allow_unsafe_filesystem"])
    owners = _owners(given["single_user"])
    abilities.require(as_user=not given["single_user"])
    fresh = not Path(paths.settings).exists()
    _directories(paths)
    durable.replace(Path(paths.ca), given["ca_pem"].encode(), 0o644)
    durable.replace(Path(paths.trust_root), root_json, 0o644)
    durable.replace(Path(paths.launcher_conf), _launcher_conf(deadline_s, owners, given).encode(), 0o644)
    if given["env"] or not Path(paths.app_env).exists():
        durable.replace(Path(paths.app_env), _environment(given["env"]).encode(), 0o640)
    if pair:
        durable.replace(Path(paths.pair), pair, 0o600)
    enrolled = Path(paths.pair).exists() or Path(paths.cert).exists()
    if given["token"] and not enrolled:
        durable.replace(Path(paths.token), given["token"].strip().encode() + b"\n", 0o600)
    package = resources.files("beamfleet_agent") / "device"
    for name, mode in DEVICE_FILES.items():
        source = package / name
        if not source.is_file():
            raise AgentError("setup.incomplete", f"this installation has no device/{name}", "run ./dev setup")
        durable.replace(Path(paths.lib, name), source.read_bytes(), mode)
    if root:
        durable.replace(Path(root, "run"), _run_script(given["python"]).encode(), 0o755)
    _own(paths, owners)
    durable.replace(Path(paths.settings), _toml(document).encode(), 0o644)  # last: with it the device is laid down
    return {
        "device": given["device"],
        "root": root or "/",
        "fresh": fresh,
        "enrolled": enrolled,
        "filesystem": mount.kind,
        "unsafe_filesystem": not mount.safe,
        "trial_deadline_s": deadline_s,
        "run": f"{root}/run" if root else "",
    }


def _pair(given: dict[str, Any], place: Path) -> bytes:
    """Certificate and key that were made elsewhere, as the device keeps them; empty if none are given.

    Errors `setup.words`, `setup.enrolled`.
    """
    if not given["certificate_pem"] and not given["key_pem"]:
        return b""
    try:
        data = f"{given['certificate_pem']}\n{given['key_pem']}".encode()
        certificate, key = pki.read_pair(data, "key_pem")
        facts = pki.read_certificate(certificate)
    except BundleError as error:
        hint = "give both, certificate_pem and key_pem, in PEM"
        raise AgentError("setup.words", f"the given identity is no good: {error.message}", hint) from error
    if facts.name != given["device"]:
        hint = "give the certificate that was made for this device"
        raise AgentError("setup.words", f"the given certificate is for {facts.name!r}, not for {given['device']}", hint)
    pair = pki.join_pair(certificate, key)
    if place.exists() and place.read_bytes() != pair:
        hint = f"remove {place} first, if the device is to forget who it was"
        raise AgentError("setup.enrolled", "this device has a certificate of its own already", hint)
    return pair


def _checked(words: Any) -> dict[str, Any]:
    if not isinstance(words, dict):
        raise AgentError("setup.words", "the settings are not a JSON object", "give them on standard input")
    if unknown := sorted(set(words) - set(WORDS)):
        raise AgentError("setup.words", f"there is no setting {unknown[0]!r}", f"the settings are {', '.join(WORDS)}")
    given: dict[str, Any] = {}
    for key, (kind, default) in WORDS.items():
        value = words.get(key)
        value = default if value is None else value
        if value is None:
            raise AgentError("setup.words", f"the setting {key} is missing", "give it on standard input")
        if type(value) is not kind:
            raise AgentError("setup.words", f"{key} is {type(value).__name__}, not {kind.__name__}")
        given[key] = value
    for name, value in given["env"].items():
        if not _NAME.fullmatch(name) or not isinstance(value, str) or not value.isprintable():
            hint = "use NAME=VALUE with letters, digits and _ in the name, and a value of one line"
            raise AgentError("setup.environment", f"{name!r} cannot be set in app.env", hint)
    if "BEGIN CERTIFICATE" not in given["ca_pem"]:
        raise AgentError("setup.words", "ca_pem is not a certificate in PEM", "give the fleet's authority")
    return given


def _root_json(encoded: str) -> bytes:
    try:
        data = base64.b64decode(encoded, validate=True)
        if json.loads(data)["signed"]["_type"] != "root":
            raise ValueError
    except (ValueError, KeyError, TypeError):
        hint = "run `beamfleet init` first: it makes and uploads the root"
        raise AgentError("setup.words", "root_json_base64 is not TUF root metadata", hint) from None
    return data


def _filesystem(paths: Paths, allowed: bool) -> Mount:
    place = Path(paths.var)
    while not place.exists():
        place = place.parent
    mount = mount_of(str(place))
    if not mount.safe and not allowed:
        hint = "use ext4 with a journal, xfs, btrfs or f2fs; or --allow-unsafe-filesystem, and expect damage"
        text = f"{mount.why}: a power cut may damage {paths.var}"
        raise AgentError("setup.unsafe_filesystem", text, hint)
    return mount


def _owners(single_user: bool) -> tuple[pwd.struct_passwd | None, pwd.struct_passwd | None]:
    """(the agent's user, the application's user), or none where all is one user."""
    if single_user:
        return None, None
    try:
        return pwd.getpwnam(AGENT_USER), pwd.getpwnam(APP_USER)
    except KeyError:
        hint = "make them, or use --single-user: then everything runs as you"
        text = f"agent and release run as the system users {AGENT_USER} and {APP_USER}; one is missing here"
        raise AgentError("setup.no_user", text, hint) from None


def _directories(paths: Paths) -> None:
    modes = {
        paths.etc: 0o755, f"{paths.etc}/app.d": 0o750, paths.lib: 0o755, paths.var: 0o755, paths.identity: 0o700,
        paths.trust: 0o700, paths.app_dir: 0o755, paths.slots: 0o755, paths.staging: 0o700, paths.boot: 0o755,
        paths.requests: 0o700, paths.data: 0o700, paths.dump: 0o700, paths.run: 0o755, paths.run_app: 0o755,
        f"{paths.lib}/hooks.d": 0o755,
    }  # fmt: skip
    try:
        for path, mode in modes.items():
            os.makedirs(path, exist_ok=True)
            os.chmod(path, mode)
    except OSError as error:
        raise AgentError(
            "setup.directory", f"cannot make {error.filename}: {error.strerror}", "check --root and its owner"
        ) from error


def _own(paths: Paths, owners: tuple[pwd.struct_passwd | None, pwd.struct_passwd | None]) -> None:
    agent, app = owners
    if agent is None or app is None:
        return
    for path in (paths.var, paths.run):  # it makes files of its own there, and touches nobody else's
        os.chown(path, 0, agent.pw_gid)
        os.chmod(path, 0o1775)  # noqa: S103 - sticky
    for path in (paths.identity, paths.trust, paths.slots, paths.staging, paths.requests):
        os.chown(path, agent.pw_uid, agent.pw_gid)
    for path in (paths.token, paths.pair):
        if os.path.exists(path):
            os.chown(path, agent.pw_uid, agent.pw_gid)
    os.chown(paths.data, app.pw_uid, app.pw_gid)
    os.chown(paths.dump, app.pw_uid, agent.pw_gid)
    os.chmod(paths.dump, 0o2750)  # noqa: S103 - the agent reads the dumps that the release leaves there
    for path in (paths.app_env, f"{paths.etc}/app.d"):
        os.chown(path, 0, app.pw_gid)


def _launcher_conf(deadline_s: int, owners: tuple[pwd.struct_passwd | None, ...], given: dict[str, Any]) -> str:
    agent, app = owners
    lines = {
        "trial_deadline_s": deadline_s,
        "max_trial_boots": 3,
        "app_user": app.pw_name if app else "",
        "agent_group": agent.pw_name if agent else "",
        "app_max_processes": 4096 if app else 0,
        "watchdog": given["watchdog"],
        "watchdog_no_vm_s": 600,
        "hook_timeout_s": 60,
        "setpriv": abilities.setpriv(),
        "respawned": "yes",
        "heart_beat_timeout_s": 11,
        "log_max_bytes": 1 << 20,
    }
    return "".join(f"{key}={value}\n" for key, value in lines.items())


def _environment(env: dict[str, str]) -> str:
    head = "# Environment of the release on this device: NAME=VALUE, one a line, no quoting. Secrets belong here.\n"
    return head + "".join(f"{name}={value}\n" for name, value in env.items())


def _toml(document: dict[str, Any]) -> str:
    head = "# Laid down by `beamfleet-agent setup`; its README.md explains each setting.\n"
    flat = "".join(f"{key} = {json.dumps(value)}\n" for key, value in document.items() if key != "server")
    server = "".join(f"{key} = {json.dumps(value)}\n" for key, value in document.get("server", {}).items())
    return head + flat + (f"\n[server]\n{server}" if server else "")


def _run_script(python: str) -> str:
    return RUN.replace("@PYTHON@", shlex.quote(python))


RUN = r"""#!/bin/sh
# Stands for the init of this directory device: keeps its launcher and its agent running, with a pause of a second.
# TERM ends both and waits for them. Laid down by `beamfleet-agent setup`.
set -u
dir=$(cd "$(dirname "$0")" && pwd -P) || exit 1
mkdir -p "$dir/var/run/beamfleet/main" || exit 1
exec 9>>"$dir/var/run/beamfleet/init.lock" </dev/null
flock -n 9 || {
  echo "error: process $(cat "$dir/var/run/beamfleet/init.pid") runs $dir already (run.already_running)" >&2
  echo "hint: one is enough; end that process to start anew" >&2
  exit 1
}
echo $$ >"$dir/var/run/beamfleet/init.pid"

keep() { # COMMAND...: respawn it until TERM
  leaving='' child=''
  trap 'leaving=yes; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM INT HUP
  while [ -z "$leaving" ]; do
    "$@" 9>&- &
    child=$!
    finish "$child"
    [ -z "$leaving" ] || break
    sleep 1 9>&- &
    child=$!
    finish "$child"
  done
}

finish() { # wait, also through signals; a TERM that came before the child was known reaches it here
  [ -z "${leaving:-}" ] || kill -TERM "$1" 2>/dev/null
  while kill -0 "$1" 2>/dev/null; do wait "$1"; done
}

keep sh "$dir/usr/lib/beamfleet/launcher" "$dir" &
launcher=$!
keep @PYTHON@ -I -m beamfleet_agent run --root "$dir" &
agent=$!
leaving=''
trap 'kill -TERM "$agent" "$launcher" 2>/dev/null' TERM INT HUP
finish "$agent"
finish "$launcher"
"""
