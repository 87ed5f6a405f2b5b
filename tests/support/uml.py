"""User-mode Linux: a whole kernel as a few processes of this machine, which can be killed like a power cut.

`boot` starts a guest whose root is a disk of `tests.support.device_disk`. SIGKILL takes its memory away and nothing
else: what it had written lies in this machine's page cache, in the order of its writes. It is Debian's package
`user-mode-linux`, whose kernel needs no module, no device and no virtualisation; it has one processor.
"""

import contextlib
import shutil
from pathlib import Path

from tests.support import device_disk
from tests.support.console import Console, GuestError

PROGRAM = "linux.uml"
MEMORY = "512M"
BOOT_S = 120


def missing() -> str:
    """Why no guest can run here; "" when one can."""
    if shutil.which(PROGRAM) is None:
        return "missing Debian package: user-mode-linux"
    try:
        with Console(["linux.uml", "mem=64M", "con=null", "con0=fd:0,fd:1", "panic=1"]) as console:
            console.expect("Unable to mount root|VFS: Cannot open root", 60)
    except GuestError as error:
        return f"user-mode Linux does not run here: {str(error).splitlines()[-1]}"
    return device_disk.missing()


def boot(disk: Path) -> Console:
    """A guest with this disk that is ready for commands."""
    words = (
        f"mem={MEMORY}", f"ubd0={disk}", "root=/dev/ubda", "rootfstype=ext4", "ro", f"init={device_disk.GUEST_INIT}",
        "con=null", "con0=fd:0,fd:1", "quiet", "panic=1",
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        console = stack.enter_context(Console([PROGRAM, *words]))
        console.ready(BOOT_S)
        stack.pop_all()
    return console
