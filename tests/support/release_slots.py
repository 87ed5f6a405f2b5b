"""Slots as they lie on a device, for tests that have a launcher and no agent.

`Releases` writes real releases as the worker does, once: built to a bundle, unpacked against its manifest by `Slots`.
`lay` gives a device its own copy by hard links, with what a test adds to the start or breaks. `with_arguments` is a
tarball to be built, signed and installed that starts with something more. `tiny` is kernel and stdlib of this
machine's OTP alone.
"""

import fcntl
import functools
import io
import os
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from beamfleet_agent.slots import Slots
from beamfleet_bundles import pack
from beamfleet_bundles.build.builder import build
from beamfleet_bundles.bundle import Bundle

from tests.support.examples import tarball

TINY_LAUNCH = "kind=systools\nname=tiny\nvsn=1\nerts={erts}\nboot=releases/1/start\nconfig=\nargs_file=\n"


class Releases:
    """Slots of the example releases below `work`, each written when it is first asked for.

    Threads may share one, and processes may share a directory.
    """

    def __init__(self, work: Path) -> None:
        self._work, self._lock = work, threading.Lock()
        self._written: dict[tuple[str, str], Path] = {}

    def slot(self, name: str, version: str) -> Path:
        """The slot of sensor_gateway or edge_hub, named by its manifest; read-only."""
        with self._lock:
            if (name, version) not in self._written:
                self._written[name, version] = self._shared(name, version)
            return self._written[name, version]

    def _shared(self, name: str, version: str) -> Path:
        work = self._work / f"{name}-{version}"
        work.mkdir(parents=True, exist_ok=True)
        note = work / "slot"
        with (work / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not note.exists():
                note.write_text(str(self._write(name, version, work)))
            return Path(note.read_text())

    def _write(self, name: str, version: str, work: Path) -> Path:
        (work / "slots").mkdir()
        bundle = Bundle.open(build(tarball(name, version), out_dir=work).path)
        slots = Slots(str(work / "slots"), str(work / "staging"))
        with slots.lock():
            slots.write(bundle.manifest, pack.unpack(bundle.pack_chunks(), bundle.manifest), lambda _bytes: None)
            slots.publish(bundle.manifest.id)
        return slots.path(bundle.manifest.id)


def lay(
    written: Path, slot: Path, *, arguments: Sequence[str] = (), replaced: Mapping[str, bytes] | None = None
) -> None:
    """Give a device the slot `written` as `slot`, with further VM arguments and with other contents of some files."""
    for folder, _, files in os.walk(written):
        there = slot / os.path.relpath(folder, written)
        there.mkdir()
        for name in files:
            os.link(Path(folder, name), there / name, follow_symlinks=False)
    launch = slot / ".beamfleet/launch"
    more = "".join(f"arg.{number}={word}\n" for number, word in enumerate(arguments))
    changes = {".beamfleet/launch": launch.read_bytes() + more.encode(), **(replaced or {})}
    for path, content in changes.items():
        place = slot / path
        mode = place.stat().st_mode
        place.unlink()
        place.write_bytes(content)
        place.chmod(mode)


def with_arguments(source: Path, path: Path, arguments: Sequence[str]) -> Path:
    """Write the tarball `source` to `path` with further words, none with a single quote, in its vm.args."""
    more = "".join(f"\n'{word}'" for word in arguments).encode() + b"\n"
    with tarfile.open(source) as old, tarfile.open(path, "w:gz", compresslevel=1) as new:
        for member in old:
            file = old.extractfile(member)
            content = file.read() if file else b""
            if member.name.endswith("/vm.args"):
                content += more
                member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    return path


def tiny(slot: Path, programs: Mapping[str, str] = {}, launch: str = "") -> None:
    """Lay the smallest release that boots, with these programs and further lines of its launch file."""
    root, erts = _otp()
    shutil.copytree(root / f"erts-{erts}/bin", slot / f"erts-{erts}/bin")
    for library in ("kernel", "stdlib"):
        found = next((root / "lib").glob(f"{library}-*"))
        shutil.copytree(found / "ebin", slot / "lib" / found.name / "ebin")
    (slot / "releases/1").mkdir(parents=True)
    shutil.copy(root / "bin/start_clean.boot", slot / "releases/1/start.boot")
    (slot / ".beamfleet").mkdir()
    (slot / ".beamfleet/launch").write_text(TINY_LAUNCH.format(erts=erts) + launch)
    for path, content in programs.items():
        (slot / path).parent.mkdir(exist_ok=True)
        (slot / path).write_text(content)
        (slot / path).chmod(0o755)


@functools.cache
def _otp() -> tuple[Path, str]:
    """Root directory and ERTS version of the installed OTP."""
    expression = 'io:format("~s ~s", [code:root_dir(), erlang:system_info(version)]), halt().'
    done = subprocess.run(["erl", "-noshell", "-eval", expression], capture_output=True, text=True, check=True)
    root, erts = done.stdout.split()
    return Path(root), erts
