"""Owns laying a device down: directories, settings, launcher, and for a device in a directory the script that runs it.

Three kinds of root: "" is the machine itself; DIR with single_user is a device in a directory, which needs no system;
DIR without it is the root file system of a machine that does not run, whose users and tools are looked for in there.
Safe to repeat: what identifies the device (key, certificate, trust, slots, journal) is never touched, everything else
is brought to what is asked. Refuses a filesystem that a power cut may damage, unless that is allowed. Enrols nothing.
"""

import errno
import json
import os
import stat
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from beamfleet_bundles import durable, pki
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.filesystem import Mount, mount_of

from beamfleet_agent import abilities, connections, device_id, settings, setup_words, system_root
from beamfleet_agent.directory_device import run_script
from beamfleet_agent.errors import AgentError
from beamfleet_agent.given_files import GivenFiles
from beamfleet_agent.paths import Paths
from beamfleet_agent.proxy import split
from beamfleet_agent.setup_words import IN_TOML, IN_TOML_IF_GIVEN
from beamfleet_agent.system_root import Account

SCRIPTS = ("launcher", "state", "rules", "vm", "start", "strangers", "hooks", "errand", "watchdog")
DEVICE_FILES = dict.fromkeys(SCRIPTS, 0o755) | {"beamfleet_link.beam": 0o644}
AGENT_USER, APP_USER = "beamfleet", "beamfleet-app"
START_MARGIN_S = 10


class Owners(NamedTuple):
    """The users of a device whose release is not to touch the agent."""

    agent: Account
    app: Account


def set_up(root: str, words: Any) -> dict[str, Any]:
    """Lay the device down in `root` ("" is the machine itself). Errors: `setup.*`, `agent.settings`."""
    given = setup_words.checked(words)
    in_directory = bool(root) and given["single_user"]
    system = "" if in_directory else root
    if given["id_from"] and system:
        hint = "lay these words down as provision.json: the id is worked out at the first boot"
        raise AgentError("setup.words", "a system that is off does not know its id", hint)
    given["device"] = given["device"] or device_id.candidates(given["id_from"], given["id_prefix"])[0]
    paths = Paths(root, given["app"])
    document, deadline_s, proxy_secret = _settled(given)
    root_json = setup_words.root_json(given["root_json_base64"])
    directories = _directories(paths, runs=not system)
    for place in directories:
        system_root.inside(system, place.removeprefix(system))
    pair = _pair(given, Path(paths.pair))
    mount = _filesystem(paths, given["allow_unsafe_filesystem"])
    owners = None if given["single_user"] else _owners(root)
    abilities.require(as_user=owners is not None, root=system)
    files = GivenFiles(root, given, in_directory=in_directory)
    fresh = not Path(paths.settings).exists()
    _make(paths, directories)
    durable.replace(Path(paths.ca), given["ca_pem"].encode(), 0o644)
    durable.replace(Path(paths.trust_root), root_json, 0o644)
    conf = _launcher_conf(deadline_s, owners, given["watchdog"], abilities.setpriv(system))
    durable.replace(Path(paths.launcher_conf), conf.encode(), 0o644)
    if given["env"] or not Path(paths.app_env).exists():
        durable.replace(Path(paths.app_env), _environment(given["env"]).encode(), 0o640)
    if pair:
        durable.replace(Path(paths.pair), pair, 0o600)
    enrolled = Path(paths.pair).exists() or Path(paths.cert).exists()
    if given["token"] and not enrolled:
        durable.replace(Path(paths.token), given["token"].strip().encode() + b"\n", 0o600)
    if proxy_secret:
        durable.replace(Path(paths.proxy_secret), proxy_secret.encode() + b"\n", 0o600)
    else:
        Path(paths.proxy_secret).unlink(missing_ok=True)
    if not os.path.isdir(f"{paths.lib}/python"):  # else they are a package's
        _device_files(paths)
    if in_directory:
        durable.replace(Path(root, "run"), run_script(given["python"]).encode(), 0o755)
    files.lay()
    if owners:
        _own(paths, owners, runs=not system)
    durable.replace(Path(paths.settings), _toml(document).encode(), 0o644)  # last: with it the device is laid down
    return {
        "device": given["device"],
        "root": root or "/",
        "fresh": fresh,
        "enrolled": enrolled,
        "filesystem": mount.kind,
        "unsafe_filesystem": not mount.safe,
        "trial_deadline_s": deadline_s,
        "run": f"{root}/run" if in_directory else "",
    }


def check(root: str, words: Any) -> None:
    """Refuse what `set_up` would refuse of the words alone; those that only the server knows may be missing. Asks the
    disk only for what lies below `root`, and writes nothing. Errors as those of `set_up`."""
    given = setup_words.checked(words, whole=False)
    given["device"] = given["device"] or f"{given['id_prefix']}0"  # any that it might work out
    paths = Paths(root, given["app"])
    _settled(given)
    if given["root_json_base64"]:
        setup_words.root_json(given["root_json_base64"])
    in_directory = bool(root) and given["single_user"]
    _pair(given, Path(paths.pair) if in_directory else None)
    if in_directory:
        _filesystem(paths, given["allow_unsafe_filesystem"])
    if root:
        GivenFiles(root, given, in_directory=in_directory)
    else:
        connections.check(given["wifi"], given["apn"])


def _settled(given: dict[str, Any]) -> tuple[dict[str, Any], int, str]:
    """(what agent.toml will say, when a trial ends, USER:PASSWORD of the proxy or ""). Errors `agent.settings`,
    `setup.words`."""
    given["proxy"], proxy_secret = split(given["proxy"])
    document = {key: given[key] for key in IN_TOML} | ({"server": given["server"]} if given["server"] else {})
    document |= {key: given[key] for key in IN_TOML_IF_GIVEN if given[key] != setup_words.WORDS[key][1]}
    settings.check(document)
    deadline_s = given["trial_deadline_s"] or max(60, 2 * given["trial_s"] + START_MARGIN_S)
    if deadline_s < given["trial_s"] + START_MARGIN_S:
        hint = f"use at least trial_s + {START_MARGIN_S}: the release has to start before it can be well"
        raise AgentError("setup.words", f"trial_deadline_s = {deadline_s} is too short for trial_s", hint)
    return document, deadline_s, proxy_secret


def _device_files(paths: Paths) -> None:
    package = resources.files("beamfleet_agent") / "device"
    for name, mode in DEVICE_FILES.items():
        source = package / name
        if not source.is_file():
            raise AgentError("setup.incomplete", f"this installation has no device/{name}", "run ./dev setup")
        durable.replace(Path(paths.lib, name), source.read_bytes(), mode)


def _pair(given: dict[str, Any], place: Path | None) -> bytes:
    """Certificate and key that were made elsewhere, as the device keeps them in `place`; empty if none are given.

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
    if place and place.exists() and place.read_bytes() != pair:
        hint = f"remove {place} first, if the device is to forget who it was"
        raise AgentError("setup.enrolled", "this device has a certificate of its own already", hint)
    return pair


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


def _owners(root: str) -> Owners:
    agent, app = system_root.account(root, AGENT_USER), system_root.account(root, APP_USER)
    if agent is None or app is None:
        hint = "make them, or use --single-user: then everything runs as you"
        text = f"agent and release run as the system users {AGENT_USER} and {APP_USER}; one is missing in {root or '/'}"
        raise AgentError("setup.no_user", text, hint)
    return Owners(agent, app)


def _directories(paths: Paths, *, runs: bool) -> dict[str, int]:
    """All of them with their modes. `runs`: of a system that is off, /run is nothing that would last."""
    return {
        paths.etc: 0o755, f"{paths.etc}/app.d": 0o750, paths.lib: 0o755, paths.var: 0o755, paths.identity: 0o700,
        paths.trust: 0o700, f"{paths.var}/apps": 0o755, paths.app_dir: 0o755, paths.slots: 0o755, paths.staging: 0o700,
        paths.boot: 0o755, paths.requests: 0o700, paths.data: 0o700, paths.dump: 0o700, f"{paths.lib}/hooks.d": 0o755,
    } | ({paths.run: 0o755, paths.run_app: 0o755} if runs else {})  # fmt: skip


def _make(paths: Paths, directories: dict[str, int]) -> None:
    try:
        for path, mode in directories.items():
            os.makedirs(path, exist_ok=True)
            _settle(path, mode, linked=path in (paths.etc, paths.lib, paths.var, paths.run))
    except OSError as error:
        raise AgentError(
            "setup.directory", f"cannot make {error.filename}: {error.strerror}", "check --root and its owner"
        ) from error


def _own(paths: Paths, owners: Owners, *, runs: bool) -> None:
    agent, app = owners
    for path in (paths.var, paths.run) if runs else (paths.var,):  # it makes files of its own there, no others' are its
        _settle(path, 0o1775, (0, agent.gid), linked=True)
    for path in (paths.identity, paths.trust, paths.slots, paths.staging, paths.requests):
        _settle(path, None, (agent.uid, agent.gid))
    for path in (paths.token, paths.pair, paths.proxy_secret, paths.seed):
        if os.path.lexists(path):
            _settle(path, None, (agent.uid, agent.gid))
    _settle(paths.data, None, (app.uid, app.gid))
    _settle(paths.dump, 0o2750, (app.uid, agent.gid))  # the agent reads the dumps that the release leaves there
    for path in (paths.app_env, f"{paths.etc}/app.d"):
        _settle(path, None, (0, app.gid))


def _settle(path: str, mode: int | None, owner: tuple[int, int] | None = None, *, linked: bool = False) -> None:
    """Give a file or directory its owner and its mode, unless somebody has put a link there to have us give him what is
    not his: the agent's user may write in /var/lib/beamfleet. linked: the owner of the device may have put one there.

    Error `setup.directory`.
    """
    try:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags if linked else flags | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise AgentError(
                "setup.directory", f"{path} is a link", "remove it: everything there is one mount"
            ) from error
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISDIR(found.st_mode) and (not stat.S_ISREG(found.st_mode) or found.st_nlink != 1):
            raise AgentError("setup.directory", f"{path} is no file with one name", "remove it")
        if owner is not None:
            os.fchown(descriptor, *owner)
        if mode is not None:
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _launcher_conf(deadline_s: int, owners: Owners | None, watchdog: str, setpriv: str) -> str:
    lines = {
        "trial_deadline_s": deadline_s,
        "max_trial_boots": 3,
        "app_user": owners.app.name if owners else "",
        "agent_group": owners.agent.name if owners else "",
        "app_max_processes": 4096 if owners else 0,
        "watchdog": watchdog,
        "watchdog_no_vm_s": 600,
        "hook_timeout_s": 60,
        "setpriv": setpriv,
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
