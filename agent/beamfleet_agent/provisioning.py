"""Owns the first boot: provision.json says how devices like this one are laid down, and here it becomes one of them.

One image makes many devices: the id is worked out on each. A medium that comes up in another machine, or is a copy,
gets that machine's id; what it was before is set aside, and not used again except where it came from. Done at each
boot, before launcher and agent; nothing is written when nothing has changed. Enrols nothing.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from beamfleet_bundles import durable, pki
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.names import check_device

from beamfleet_agent import claim, device_id, settings, setup_words
from beamfleet_agent.errors import AgentError
from beamfleet_agent.paths import Paths
from beamfleet_agent.setup import set_up


def first_boot(root: str, machine: str = "") -> dict[str, Any]:
    """What `set_up` says, and `changed`: whether there was anything to do.

    machine: where /etc, /proc and /sys of the machine lie. Errors: those of `set_up`, `setup.no_provision`,
    `setup.no_id`, `agent.already_running`.
    """
    data, words = _read(Paths(root).provision)
    given = setup_words.checked(words)
    paths = Paths(root, given["app"])
    before = _settled(paths)
    device = _device(given, before, machine)
    mark = hashlib.sha256(data).hexdigest().encode() + b"\n"
    if device == before and _is_marked(paths, mark):
        return {"device": device, "changed": False}
    if before and device != before:
        _change(paths, device)
    answer = set_up(root, {**words, "device": device, "id_from": ""})
    durable.replace(paths.provisioned, mark, 0o600)
    return {**answer, "changed": True}


def remove_provision(root: str) -> None:
    """Somebody has said which device this is: the next boot is not to work it out."""
    place = Path(Paths(root).provision)
    if os.path.lexists(place):
        place.unlink()
        durable.sync_directory(place.parent)


def _read(path: str) -> tuple[bytes, Any]:
    try:
        data = Path(path).read_bytes()
        os.chmod(path, 0o600)  # a token is in it
        return data, json.loads(data)
    except FileNotFoundError:
        hint = "`beamfleet flash --id-from` lays it down"
        raise AgentError("setup.no_provision", f"there is no {path}", hint) from None
    except ValueError as error:
        raise AgentError("setup.no_provision", f"{path} is not JSON: {error}", "flash again") from None


def _settled(paths: Paths) -> str:
    """The id that was laid down, "" if none was."""
    try:
        return settings.load(paths.settings).device
    except AgentError:
        return ""


def _device(given: dict[str, Any], before: str, machine: str) -> str:
    """A second network card makes no other device: who it is stays so while anything of the machine says it."""
    if given["device"]:
        return str(given["device"])
    found = device_id.candidates(given["id_from"], given["id_prefix"], machine)
    return before if before in found else found[0]


def _is_marked(paths: Paths, mark: bytes) -> bool:
    try:
        return Path(paths.provisioned).read_bytes() == mark
    except OSError:
        return False


def _change(paths: Paths, device: str) -> None:
    """Make room for another identity. Each step may be the last before a power cut: then the next boot goes on here.

    The journal is about assignments to the device before; what runs is known without it.
    """
    if pid := claim.holder(paths):
        hint = "stop beamfleet-agent first, and start it afterwards"
        raise AgentError("agent.already_running", f"agent {pid} serves under the id before", hint)
    Path(paths.journal).unlink(missing_ok=True)
    owner = _named_in(paths.pair)
    if owner != device:
        if owner:
            aside = f"{paths.identity}.{owner}"
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(paths.identity, aside)
        else:
            shutil.rmtree(paths.identity, ignore_errors=True)
        if os.path.isdir(f"{paths.identity}.{device}"):
            os.rename(f"{paths.identity}.{device}", paths.identity)
    durable.sync_directory(paths.var)


def _named_in(pair: str) -> str:
    """Whose certificate that is, "" if there is none that can be read."""
    try:
        certificate, _ = pki.read_pair(Path(pair).read_bytes(), "pair")
        return check_device(pki.read_certificate(certificate).name)
    except (OSError, BundleError):
        return ""
