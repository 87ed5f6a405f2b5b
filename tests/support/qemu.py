"""A PC with a hardware watchdog, computed by QEMU: Debian's own kernel, a disk of `tests.support.device_disk`.

Computed always, never by KVM: that a machine has /dev/kvm does not mean that it works there. Its time is counted in its
own instructions, 4 ns each, so a busy host cannot make it late for its watchdog. The kernel is Debian's full one, whose
cloud sister has no driver of the watchdog (`tests.support.kernels`). What the machine does is told by the console and
by QMP, whose events (WATCHDOG, RESET) carry no opinion of the guest.
"""

import contextlib
import json
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from tests.support import device_disk, kernels
from tests.support.console import Console, GuestError

PROGRAM = "qemu-system-x86_64"
MEMORY = "512M"
BOOT_S = 600
_BOOT = kernels.Boot("amd64", "/dev/vda", device_disk.GUEST_INIT, ("virtio_pci", "virtio_blk", "i6300esb"))


def missing() -> str:
    """Why no such machine can run here; "" when one can. Fetches the kernel when it is not there yet."""
    if shutil.which(PROGRAM) is None:
        return "missing Debian packages: qemu-system-x86"
    return kernels.missing(_BOOT) or device_disk.missing()


class Machine:
    """A machine that was switched on with this disk. A context: it is gone afterwards, with all that it started."""

    def __init__(self, disk: Path) -> None:
        kernel = kernels.made(_BOOT)
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
