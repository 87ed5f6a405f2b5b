"""Debian's kernels for machines in QEMU, each with a first process that hands over to what is on a disk.

A kernel is fetched once, in the architecture of the machine, taken apart and kept by the hash of its recipe. In its
initramfs there are a BusyBox and the modules that are asked for, with those that they need themselves: it loads them,
waits for the partition, mounts it read-only, as any boot loader would have it, and is gone.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

from tests.support import rootfs

CACHE = rootfs.ROOT / ".build/vm"
_TOOLS = ("cpio", "mmdebstrap")
_INIT = """#!/busybox sh
/busybox mount -t devtmpfs dev /dev
while read -r module; do /busybox insmod "/modules/$module"; done </modules/order
until [ -b {partition} ]; do /busybox sleep 0.1; done
/busybox mount -t ext4 -o ro {partition} /disk
/busybox mount --move /dev /disk/dev
exec /busybox switch_root /disk {program}
"""


@dataclass(frozen=True, slots=True)
class Boot:
    """How a machine comes up: its architecture as Debian calls it, what it mounts, what it runs there as process 1,
    and the modules that this takes."""

    arch: str
    partition: str
    program: str
    modules: tuple[str, ...]

    @property
    def script(self) -> str:
        """The first process."""
        return _INIT.format(partition=self.partition, program=self.program)

    @property
    def order(self) -> tuple[str, ...]:
        """What is loaded, in this order."""
        return ("crc32c_generic", "ext4", *self.modules)


def missing(boot: Boot) -> str:
    """Why it cannot be had; "" when it is there, and if need be was fetched for that."""
    if lacking := sorted(tool for tool in _TOOLS if shutil.which(tool) is None):
        return f"missing Debian packages: {' '.join(lacking)}"
    try:
        made(boot)
    except (OSError, subprocess.CalledProcessError, rootfs.RootError) as error:
        said = getattr(error, "stderr", "") or str(error)
        return f"Debian's kernel cannot be had: {said.strip()[-300:]}"
    return ""


def made(boot: Boot) -> Path:
    """The directory with `vmlinuz` and `initramfs`; with the newest kernel that could be had, or any that was kept."""
    recipe = hashlib.sha256(json.dumps([boot.script, *astuple(boot)]).encode()).hexdigest()[:16]
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"kernel.{recipe}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = sorted(CACHE.glob(f"linux-image-*.{recipe}/initramfs"), key=os.path.getmtime)
        return kept[-1].parent if kept else _make(boot, recipe)


def _make(boot: Boot, recipe: str) -> Path:
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        here = Path(scratch)
        root = rootfs.extract(here / "root", (f"linux-image-{boot.arch}", "busybox-static"), boot.arch)
        image = next((root / "boot").glob("vmlinuz-*"))
        out = here / "made"
        out.mkdir()
        shutil.move(image, out / "vmlinuz")
        _initramfs(boot, root, out / "initramfs")
        return out.rename(CACHE / f"{image.name.replace('vmlinuz', 'linux-image')}.{recipe}")


def _initramfs(boot: Boot, root: Path, image: Path) -> None:
    tree = image.parent.parent / "tree"
    for folder in ("dev", "disk", "modules"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(root / "bin/busybox", tree / "busybox")
    (tree / "init").write_text(boot.script)
    (tree / "init").chmod(0o755)
    files = {path.stem.replace("-", "_"): path for path in root.glob("**/*.ko")}
    order = list(dict.fromkeys(name for module in boot.order for name in _with_depends(module, files)))
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
