"""Owns everything that helps to see why: the facts of the device, and the archive of them with its logs and its dump.

    facts.json          what runs, what the device is and was settled to be, what is where; what was left out
    boot/*              the launcher's state, and what hooks came to
    probe.*             what commands of probes came to
    journal             what the agent was about to do
    vm.log vm.log.1     the ends of what the release printed
    units.log           what the two units logged, where there is a journal of systemd that may be read
    erl_crash.dump      the beginning of the newest crash dump

A tar file in zstd, made in memory: on a full or broken disk as well, and nothing is left behind. Bounded, and the dump,
which is last, gets the room that is left. A dump holds what the release knew, secrets too: what leaves the device is
sealed (`worker/diagnose.py`). Keys, tokens and the release's settings are never in it. Only plain files are read, where
their owner may put them: no link is followed, no pipe is waited for.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from typing import Any

from beamfleet_bundles import pki
from beamfleet_bundles.errors import BundleError

from beamfleet_agent import bearings, health, inventory, plain_file, settings, vm_log
from beamfleet_agent.journal import MAX_BYTES as MAX_JOURNAL
from beamfleet_agent.journal import Journal
from beamfleet_agent.paths import Paths

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_ARCHIVE = 15 << 20
"""Bytes of all files together, so that the archive and its envelope stay below what the server takes."""
MAX_LOG, MAX_UNITS, MAX_SMALL = 2 << 20, 1 << 20, 16_384
MAX_BOOT_FILES = 16
UNITS = ("beamfleet-launcher", "beamfleet-agent")
UNITS_S = 20.0
TAIL, MAX_LINE = 4_096, 512
Left = dict[str, str]
"""What was left out or cut, by name: why."""


def facts(paths: Paths, status: dict[str, Any]) -> dict[str, Any]:
    """What can be said in words and numbers. No secrets."""
    settled = settings.load(paths.settings)
    return {
        "status": status,
        "inventory": inventory.take(paths.slots, settled.hardware, settled.network)._asdict(),
        "settings": settled._replace(server=None)._asdict() | {"server": settled.server and settled.server._asdict()},
        "launcher": _listens(paths.doorbell),
        "slots": _listed(paths.slots),
        "staging": _listed(paths.staging),
        "requests": _listed(paths.requests),
        "journal": Journal(paths.journal).read() is not None,
        "certificate": certificate(paths.pair),
        "fingerprint": fingerprint(paths),
        "identity": _listed(paths.identity),
        "bearings": bearings.load(paths)._asdict(),
        "signed_authorities": os.path.exists(paths.authorities),
        "token": os.path.exists(paths.token),
        "boot_state": tail(f"{paths.boot}/state", TAIL).decode("utf-8", "replace"),
        "vm_log": "\n".join(vm_log.lines(tail(f"{paths.run_app}/vm.log", TAIL), MAX_LINE)),
    }


def archive(paths: Paths, status: dict[str, Any]) -> bytes:
    """The whole of it."""
    left: Left = {}
    files = [*_small(paths, left)]
    room = MAX_ARCHIVE - sum(len(data) for _, data in files) - 2 * MAX_JOURNAL
    dump = _dump(paths, room, left)
    said = json.dumps({**facts(paths, status), "left_out": left}, indent=1).encode()[:MAX_JOURNAL]
    whole = io.BytesIO()
    packed = zstd.ZstdFile(whole, "w")
    with packed, tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in [("facts.json", said), *files, *([("erl_crash.dump", dump)] if dump else [])]:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
            tar.addfile(entry, io.BytesIO(data))
    return whole.getvalue()


def certificate(path: str) -> dict[str, Any] | None:
    """The certificate of the pair in this file; None without one, or without the right."""
    try:
        with open(path, "rb") as file:
            found = pki.read_certificate(pki.load_certificate(file.read()))
    except (OSError, BundleError):
        return None
    return {"name": found.name, "serial": found.serial, "not_before": found.not_before, "not_after": found.not_after}


def fingerprint(paths: Paths) -> str:
    """SHA-256 of the device's public key, for whoever is to accept it; empty without a key, or without the right."""
    from pathlib import Path

    for name in (paths.pair, paths.key):
        try:
            return pki.fingerprint(pki.load_key(Path(name)).public_key())
        except BundleError:
            continue
    return ""


def tail(path: str, limit: int) -> bytes:
    """The last bytes of a plain file."""
    return _read(path, limit, from_end=True)[0]


def _small(paths: Paths, left: Left) -> Iterator[tuple[str, bytes]]:
    told = [name for name in _listed(paths.boot) if name == "state" or name.startswith("hook.")]
    for name in told[-MAX_BOOT_FILES:]:  # the state is the last of them
        yield f"boot/{name}", tail(f"{paths.boot}/{name}", MAX_SMALL)
    for name in ("probe", *(f"probe.{kind}" for kind in health.PROBES)):
        if answer := tail(f"{paths.run_app}/{name}", MAX_SMALL):
            yield name, answer
    yield "journal", tail(paths.journal, MAX_JOURNAL)
    for name in ("vm.log.1", "vm.log"):
        data, why = _read(f"{paths.run_app}/{name}", MAX_LOG, from_end=True)
        if why:
            left[name] = why
        if data:
            yield name, data
    if not paths.root and (said := _units(left)):
        yield "units.log", said


def _dump(paths: Paths, room: int, left: Left) -> bytes:
    """The beginning of the dump: what the slogan is, and the processes, stands there."""
    try:
        owner = os.stat(paths.dump).st_uid
    except OSError as error:
        left["erl_crash.dump"] = str(error.strerror)
        return b""
    data, why = _read(f"{paths.dump}/erl_crash.dump", max(room, 0), owner=owner)
    if why:
        left["erl_crash.dump"] = why
    return data


def _units(left: Left) -> bytes:
    program = shutil.which("journalctl")
    if program is None:
        return b""
    words = [program, "--no-pager", "--quiet", "--output=short-iso-precise", "--lines=4000"]
    try:
        done = subprocess.run(
            [*words, *(f"--unit={unit}" for unit in UNITS)],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=UNITS_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        left["units.log"] = str(error)[:200]
        return b""
    if not done.stdout:
        left["units.log"] = done.stderr.decode("utf-8", "replace")[:200].strip() or "nothing is logged, or not for us"
    return done.stdout[-MAX_UNITS:]


def _read(path: str, limit: int, *, from_end: bool = False, owner: int | None = None) -> tuple[bytes, str]:
    """Bytes of a plain file with no other name, of this owner if that is said; and why it is not, or not all of it."""
    try:
        descriptor, found = plain_file.opened(path)
    except FileNotFoundError:
        return b"", ""
    except OSError as error:
        return b"", str(error.strerror)
    try:
        if found.st_nlink > 1:
            return b"", "it has another name: it may be somebody else's"
        if owner is not None and found.st_uid != owner:
            return b"", f"it belongs to user {found.st_uid}, not to {owner}"
        start = max(0, found.st_size - limit) if from_end else 0
        with open(descriptor, "rb", closefd=False) as file:
            file.seek(start)
            data = file.read(limit)
    except OSError as error:
        return b"", str(error.strerror)
    finally:
        os.close(descriptor)
    return data, f"{len(data)} of {found.st_size} bytes" if found.st_size > limit else ""


def _listed(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _listens(doorbell: str) -> bool:
    try:
        os.close(os.open(doorbell, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True
