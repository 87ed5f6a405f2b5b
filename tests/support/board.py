"""A board with a network, computed by QEMU: it is switched on with a disk image and does what the disk says.

Nobody types anything: its console is only read. Its one network card is behind QEMU's own router, whose address HOST is
the loopback of this machine, so that a server that listens there is reached by the guest as HOST, with the same ports.
Computed always, never by KVM. The kernel is handed over by QEMU, as a boot loader would do it; the first process comes
from partition 2 of the disk, which is written to.
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.support import kernels
from tests.support.console import Console

HOST = "10.0.2.2"
MAC = "52:54:00:be:af:01"
MEMORY = "768M"
PARTITION = 2
_SHOWN = "systemd.show_status=true systemd.journald.forward_to_console=1"
"""All that systemd's journal hears is on the console as well."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What QEMU calls an architecture and computes for it."""

    arch: str
    program: str
    package: str
    machine: tuple[str, ...]
    console: str

    @property
    def boot(self) -> kernels.Boot:
        """From the kernel to the init of the disk."""
        modules = ("virtio_pci", "virtio_blk", "virtio_net")
        return kernels.Boot(self.arch, f"/dev/vda{PARTITION}", "/sbin/init", modules)


AMD64 = Kind("amd64", "qemu-system-x86_64", "qemu-system-x86", ("-M", "pc", "-cpu", "max"), "ttyS0")
ARM64 = Kind("arm64", "qemu-system-aarch64", "qemu-system-arm", ("-M", "virt", "-cpu", "cortex-a72"), "ttyAMA0")


def missing(kind: Kind) -> str:
    """Why there is no such board here; "" when there is. Fetches the kernel when it is not there yet."""
    if shutil.which(kind.program) is None:
        return f"missing Debian packages: {kind.package}"
    return kernels.missing(kind.boot)


class Board:
    """Switched on with this disk at `switched_on` (time.monotonic). A context: it loses its power afterwards.

    alone: the cable is in, and nothing is at its other end.
    """

    def __init__(self, kind: Kind, disk: Path, *, alone: bool = False) -> None:
        kernel = kernels.made(kind.boot)
        self.switched_on = time.monotonic()
        self.console = Console(
            [
                kind.program, "-accel", "tcg,thread=multi", *kind.machine, "-smp", "2", "-m", MEMORY,
                "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
                "-kernel", str(kernel / "vmlinuz"), "-initrd", str(kernel / "initramfs"),
                "-append", f"console={kind.console} panic=1 mitigations=off {_SHOWN}",
                "-drive", f"file={disk},format=raw,if=none,id=disk,cache=writeback",
                "-device", "virtio-blk-pci,drive=disk",
                "-netdev", f"user,id=lan,restrict={'on' if alone else 'off'}",
                "-device", f"virtio-net-pci,netdev=lan,mac={MAC},romfile=",
            ]
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    @property
    def seconds(self) -> float:
        """Since it was switched on."""
        return time.monotonic() - self.switched_on

    def cut(self) -> None:
        """The power fails. Safe to repeat."""
        self.console.cut()
