"""The disk of a device in a virtual machine: a whole root on ext4 with a journal, with an init that serves the console.

`make` turns a root directory, such as that of `tests.support.packaged`, into a sparse image; the directory is left as
it is. `partitioned` makes a disk as boards have it, with a table, a small partition for a boot loader and the root as
the second one. `findings` asks fsck, after the machine has been switched off.
"""

import shutil
import subprocess
from pathlib import Path

INIT = Path(__file__).with_name("guest_init")
GUEST_INIT = "/usr/sbin/guest-init"
SIZE = "1G"
BOOT_MIB = 32
_MIB = 1 << 20
_TOOLS = ("mkfs.ext4", "debugfs", "fsck.ext4", "sfdisk")
_EXT4 = ("-q", "-F", "-O", "has_journal", "-E")
_LINUX = {"gpt": "L", "dos": "83"}


def missing() -> str:
    """Why there can be no disks here; "" when there can."""
    return "" if all(map(shutil.which, _TOOLS)) else "missing Debian package: e2fsprogs"


def make(root: Path, image: Path) -> Path:
    """The new disk `image` with what is below `root`, and our init."""
    lazy = "lazy_itable_init=0,lazy_journal_init=0"
    subprocess.run(["mkfs.ext4", *_EXT4, lazy, "-d", root, image, SIZE], check=True, capture_output=True)
    write(image, INIT, GUEST_INIT)
    return image


def partitioned(root: Path, image: Path, *, table: str = "gpt", mib: int = 1024) -> Path:
    """The new disk `image` with a table, `gpt` or `dos`, and what is below `root` on ext4 of `mib` in partition 2."""
    start = 1 + BOOT_MIB
    with image.open("wb") as file:
        file.truncate((start + mib + 1) * _MIB)
    rows = f"label: {table}\nstart=1MiB, size={BOOT_MIB}MiB, type={_LINUX[table]}\n"
    rows += f"start={start}MiB, size={mib}MiB, type={_LINUX[table]}\n"
    subprocess.run(["sfdisk", "-q", image], input=rows, text=True, check=True, capture_output=True)
    options = f"offset={start * _MIB},lazy_itable_init=0,lazy_journal_init=0"
    subprocess.run(["mkfs.ext4", *_EXT4, options, "-d", root, image, f"{mib}M"], check=True, capture_output=True)
    return image


def write(image: Path, source: Path, place: str) -> None:
    """Put a file, executable, into a disk that is not in use."""
    directory, _, name = place.rpartition("/")
    orders = f"cd {directory or '/'}\nrm {name}\nwrite {source} {name}\nset_inode_field {name} mode 0100755\n"
    subprocess.run(["debugfs", "-w", "-f", "-", image], input=orders, text=True, capture_output=True, check=True)
    shown = subprocess.run(["debugfs", "-R", f"cat {place}", image], capture_output=True, check=True)
    assert shown.stdout == source.read_bytes(), f"{place} is not in {image}: {shown.stderr.decode()}"


def copy(image: Path, into: Path) -> Path:
    """Another disk with the same contents."""
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", image, into], check=True)
    return into


def findings(image: Path) -> str:
    """What fsck has to say about a disk that was switched off cleanly; "" when it is whole."""
    done = subprocess.run(["fsck.ext4", "-f", "-n", image], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr
