"""Programs of other architectures on this machine: each is run by QEMU's user mode emulator, as the kernel is told.

Debian's package brings the emulators and the lines that the kernel's binfmt_misc wants; an init reads them at boot.
Where none did, `enable` does. What it tells the kernel stays until the machine is switched off; no file is written.
"""

import shutil
import subprocess
from pathlib import Path

ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64", "armhf": "arm"}
"""Debian's names, and QEMU's of the same."""
_KERNEL = Path("/proc/sys/fs/binfmt_misc")
_LINES = Path("/usr/lib/binfmt.d")


def native() -> str:
    """Debian's name of what this machine is."""
    return subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()


def missing(arch: str) -> str:
    """Why programs of `arch`, a name of Debian's, do not run here; "" when they do or can be made to."""
    if arch == native():
        return ""
    if not (_LINES / f"qemu-{ARCHITECTURES[arch]}.conf").exists() and not _known(arch):
        return "missing Debian packages: qemu-user-static"
    if shutil.which("arch-test") is None:
        return "missing Debian packages: arch-test"
    return ""


def enable(arch: str) -> None:
    """Have the kernel run programs of `arch`; OSError when it cannot be told. Safe to repeat."""
    if arch == native() or _known(arch):
        return
    if not (_KERNEL / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", _KERNEL], check=True, capture_output=True)
    if not _known(arch):
        line = (_LINES / f"qemu-{ARCHITECTURES[arch]}.conf").read_bytes().strip()
        (_KERNEL / "register").write_bytes(line)


def _known(arch: str) -> bool:
    return (_KERNEL / f"qemu-{ARCHITECTURES[arch]}").exists()
