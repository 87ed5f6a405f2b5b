"""A PC with a hardware watchdog, computed by QEMU: Debian's own kernel, a disk of `tests.support.device_disk`.

Computed always, never by KVM: that a machine has /dev/kvm does not mean that it works there. Its time is counted in its
own instructions, 4 ns each, so a busy host cannot make it late for its watchdog. The kernel is Debian's full one, whose
cloud sister has no driver of the watchdog; it is fetched by apt, taken apart, and kept. What the machine does is told
by the console and by QMP, whose events (WATCHDOG, RESET) carry no opinion of the guest.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from tests.support import device_disk
from tests.support.console import Console, GuestError

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".build/vm"
PROGRAM = "qemu-system-x86_64"
MODULES = ("crc32c_generic", "ext4", "virtio_pci", "virtio_blk", "i6300esb")
MEMORY = "512M"
BOOT_S = 600
_TOOLS = {PROGRAM: "qemu-system-x86", "cpio": "cpio", "apt-get": "apt", "dpkg-deb": "dpkg"}
_INIT = f"""#!/busybox sh
/busybox mount -t devtmpfs dev /dev
while read -r module; do /busybox insmod "/modules/$module"; done </modules/order
until [ -b /dev/vda ]; do /busybox sleep 0.1; done
/busybox mount -t ext4 -o ro /dev/vda /disk
/busybox mount --move /dev /disk/dev
exec /busybox switch_root /disk {device_disk.GUEST_INIT}
"""
_RECIPE = hashlib.sha256(json.dumps([_INIT, MODULES]).encode()).hexdigest()[:16]


def missing() -> str:
    """Why no such machine can run here; "" when one can. Fetches the kernel when it is not there yet."""
    if lacking := sorted(package for tool, package in _TOOLS.items() if shutil.which(tool) is None):
        return f"missing Debian packages: {' '.join(lacking)}"
    try:
        _kernel()
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        return f"Debian's kernel cannot be had: {said.strip()[-300:]}"
    return device_disk.missing()


class Machine:
    """A machine that was switched on with this disk. A context: it is gone afterwards, with all that it started."""

    def __init__(self, disk: Path) -> None:
        kernel = _kernel()
        with contextlib.ExitStack() as stack:
            room = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="beamfleet-qmp-")))
            self.console = stack.enter_context(
                Console(
                    [
                        PROGRAM, "-accel", "tcg", "-icount", "shift=2", "-cpu", "max", "-m", MEMORY,
                        "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
                        "-qmp", f"unix:{room}/qmp,server=on,wait=on",
                        "-kernel", str(kernel / "vmlinuz"), "-initrd", str(kernel / "initramfs"),
                        "-append", "console=ttyS0 panic=1 mitigations=off",
                        "-drive", f"file={disk},format=raw,if=virtio,cache=writeback",
                        "-device", "i6300esb", "-action", "watchdog=reset",
                    ]
                )
            )  # fmt: skip
            self._qmp = stack.enter_context(_Qmp(room / "qmp"))
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def ready(self) -> None:
        """Until the guest takes commands; after a reset as well."""
        self.console.ready(BOOT_S)

    def event(self, name: str, deadline_s: float) -> dict[str, Any]:
        """The next event of this name. What QEMU told before it is passed."""
        end = time.monotonic() + deadline_s
        while (left := end - time.monotonic()) > 0:
            told = self._qmp.told(left)
            if told and told.get("event") == name:
                return told
        raise GuestError(f"waited {deadline_s:.0f} s for {name}\n{self.console.text[-4000:]}")


class _Qmp:
    """QEMU's own words: one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        end = time.monotonic() + 30
        while True:
            try:
                self._socket.connect(str(path))
                break
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
        self._rest = b""
        self._socket.sendall(b'{"execute": "qmp_capabilities"}\n')

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def told(self, deadline_s: float) -> dict[str, Any] | None:
        """The next thing that it says, None when it says nothing in time."""
        self._socket.settimeout(max(deadline_s, 0.01))
        while b"\n" not in self._rest:
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                return None
            if not data:
                raise GuestError("QEMU has ended")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        said: dict[str, Any] = json.loads(line)
        return said


def _kernel() -> Path:
    """The directory with `vmlinuz` and `initramfs` of the newest kernel that apt knows, or of any that was kept."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "kernel.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = sorted(CACHE.glob(f"linux-image-*.{_RECIPE}/initramfs"), key=os.path.getmtime)
        return kept[-1].parent if kept else _fetch_kernel()


def _fetch_kernel() -> Path:
    depends = _run("apt-cache", "depends", "--important", "linux-image-amd64").split()
    package = next(word for word in depends if re.fullmatch(r"linux-image-\d.*-amd64(-unsigned)?", word))
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        here = Path(scratch)
        for name in (package, "busybox-static"):
            _run("apt-get", "download", "-q", name, directory=here)
        for archive in here.glob("*.deb"):
            _run("dpkg-deb", "-x", str(archive), str(here / "root"))
        made = here / "made"
        made.mkdir()
        shutil.move(next((here / "root/boot").glob("vmlinuz-*")), made / "vmlinuz")
        _initramfs(here / "root", made / "initramfs")
        return made.rename(CACHE / f"{package}.{_RECIPE}")


def _initramfs(root: Path, image: Path) -> None:
    tree = image.parent.parent / "tree"
    for folder in ("dev", "disk", "modules"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(root / "bin/busybox", tree / "busybox")
    (tree / "init").write_text(_INIT)
    (tree / "init").chmod(0o755)
    files = {path.stem.replace("-", "_"): path for path in root.glob("**/*.ko")}
    order = list(dict.fromkeys(name for module in MODULES for name in _with_depends(module, files)))
    for name in order:
        shutil.copy(files[name], tree / "modules")
    (tree / "modules/order").write_text("".join(f"{files[name].name}\n" for name in order))
    names = "".join(f"{path.relative_to(tree)}\n" for path in sorted(tree.rglob("*")))
    with image.open("wb") as file:
        subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"],
            cwd=tree,
            input=names.encode(),
            stdout=file,
            check=True,
        )


def _with_depends(module: str, files: dict[str, Path]) -> Iterator[str]:
    """The modules that this one needs, each after those that it needs itself, and then this one."""
    found = re.search(rb"\0depends=([^\0]*)\0", files[module].read_bytes())
    for name in found[1].decode().split(",") if found and found[1] else ():
        yield from _with_depends(name.replace("-", "_"), files)
    yield module


def _run(*command: str, directory: Path | None = None) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True, timeout=600)
    return done.stdout
