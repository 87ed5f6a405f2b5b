"""Owns running code under ptrace: it sees every call that changes files below a root, and makes one of them go wrong.

strace counts per process; the launcher is a family of short ones. Here one count runs over all of them, so "the n-th
call" is one point in time. A seccomp filter stops a process only at the calls of CALLS; between two runs nothing but
the fault differs. Processes whose executable lies below a folder `slots/` are let go: they stand for the VM, which
outlives its launcher. Knows x86-64 only (`why_not`), judges nothing.
"""

import ctypes
import errno
import os
import platform
import signal
import struct
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

AT, PATH, FD = "at", "path", "fd"
CALLS: dict[int, tuple[str, tuple[tuple[str, int], ...]]] = {
    1: ("write", ((FD, 0),)),
    2: ("open", ((PATH, 0),)),
    18: ("pwrite64", ((FD, 0),)),
    20: ("writev", ((FD, 0),)),
    40: ("sendfile", ((FD, 0),)),
    74: ("fsync", ((FD, 0),)),
    75: ("fdatasync", ((FD, 0),)),
    76: ("truncate", ((PATH, 0),)),
    77: ("ftruncate", ((FD, 0),)),
    82: ("rename", ((PATH, 0), (PATH, 1))),
    83: ("mkdir", ((PATH, 0),)),
    84: ("rmdir", ((PATH, 0),)),
    85: ("creat", ((PATH, 0),)),
    86: ("link", ((PATH, 0), (PATH, 1))),
    87: ("unlink", ((PATH, 0),)),
    88: ("symlink", ((PATH, 1),)),
    90: ("chmod", ((PATH, 0),)),
    91: ("fchmod", ((FD, 0),)),
    133: ("mknod", ((PATH, 0),)),
    257: ("open", ((AT, 0),)),
    258: ("mkdir", ((AT, 0),)),
    259: ("mknod", ((AT, 0),)),
    263: ("unlink", ((AT, 0),)),
    264: ("rename", ((AT, 0), (AT, 2))),
    265: ("link", ((AT, 0), (AT, 2))),
    266: ("symlink", ((AT, 1),)),
    268: ("chmod", ((AT, 0),)),
    306: ("syncfs", ((FD, 0),)),
    316: ("rename", ((AT, 0), (AT, 2))),
    326: ("copy_file_range", ((FD, 2),)),
}
"""Number of a call: its name, and where its arguments name what it changes."""
_OPEN_FLAGS = {2: 1, 257: 2}
"""Number of a call that opens: which argument has its flags."""
_RENAME_FLAGS = 4
_NOREPLACE = 1
_CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_AT_FDCWD = -100

_SEIZE, _CONT, _DETACH, _INFO, _POKEUSER = 0x4206, 7, 17, 0x420E, 6
_FORK, _VFORK, _CLONE, _EXEC, _SECCOMP, _EXITKILL = 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 7, 1 << 20
_EVENT_EXEC, _EVENT_SECCOMP = 4, 7
_RAX, _ORIG_RAX = 10 * 8, 15 * 8
_WALL = 0x40000000
_STOP, _PASS = 0x7FF00000, 0x7FFF0000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


@dataclass(frozen=True, slots=True)
class Call:
    """One call that changes files: its number in the run, its name, whom it came from, what it changes."""

    ordinal: int
    name: str
    program: str
    paths: tuple[str, ...]
    """Relative to the root."""
    fresh: bool = False
    """The last of `paths` did not exist before."""
    data: bytes = b""
    """The first 4 KiB of a write."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong at call `ordinal`: an errno, or 0 for SIGKILL to every process, before the call is made."""

    ordinal: int
    error: int

    @property
    def name(self) -> str:
        """SIGKILL, EIO, ENOSPC."""
        return errno.errorcode[self.error] if self.error else "SIGKILL"


@dataclass(frozen=True, slots=True)
class Trace:
    """What a run did. `status` is the exit code of the first process, negative for a signal."""

    calls: tuple[Call, ...]
    status: int


def why_not() -> str:
    """Why nothing can be traced here; empty when it can."""
    if platform.machine() != "x86_64":
        return f"the tracer knows the calls of x86_64, not of {platform.machine()}"
    try:
        run(lambda: None, Path("/nonexistent"))
    except OSError as error:
        return f"ptrace or seccomp is not allowed here: {error.strerror}"
    return ""


def run(
    subject: Callable[[], object],
    root: Path,
    fault: Fault | None = None,
    seen: Callable[[int, Call | None], None] = lambda _pid, _call: None,
) -> Trace:
    """Run `subject` in a forked child, and all that it starts, until it ends.

    `seen` hears of the child's pid at once, and of each call before it is made. An exception of `subject` is exit
    code 70 with a traceback on its standard error.
    """
    reader, writer = os.pipe()
    first = os.fork()
    if first == 0:
        _become(subject, reader, writer)
    os.close(reader)
    options = _FORK | _VFORK | _CLONE | _EXEC | _SECCOMP | _EXITKILL
    try:
        _ptrace(_SEIZE, first, 0, options)
        os.write(writer, b"\n")
    except OSError:
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
        raise
    finally:
        os.close(writer)
    seen(first, None)
    return _follow(first, str(root), fault, seen)


def _become(subject: Callable[[], object], reader: int, writer: int) -> None:
    status = 70
    try:
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _install_filter()
        answer = subject()
        status = answer if type(answer) is int else 0
    except BaseException:  # noqa: BLE001 - the child of a fork must end here
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _follow(first: int, root: str, fault: Fault | None, seen: Callable[[int, Call | None], None]) -> Trace:
    calls: list[Call] = []
    alive, status, doomed = {first}, 0, False
    while True:
        try:
            pid, word = os.waitpid(-1, _WALL)  # the caller has no other children meanwhile
        except ChildProcessError:
            return Trace(tuple(calls), status)
        if not os.WIFSTOPPED(word):
            alive.discard(pid)
            if pid == first:  # what it leaves behind, timers for one, ends with it
                status = os.waitstatus_to_exitcode(word)
                doomed = True
                _kill(alive)
            continue
        alive.add(pid)
        if doomed:  # born as the others were killed
            _kill({pid})
        event, forward = word >> 16, os.WSTOPSIG(word)
        try:
            if event == _EVENT_SECCOMP:
                call = _read_call(pid, root, len(calls) + 1)
                if call is not None:
                    calls.append(call)
                    seen(first, call)
                    if fault is not None and fault.ordinal == call.ordinal:
                        _inject(pid, fault, alive)
                        doomed = not fault.error
            elif event == _EVENT_EXEC and "/slots/" in str(Path(f"/proc/{pid}/exe").readlink()):
                _ptrace(_DETACH, pid, 0, 0)
                alive.discard(pid)
                continue
            _ptrace(_CONT, pid, 0, 0 if event else forward)
        except (ProcessLookupError, FileNotFoundError):
            continue  # killed while it stood still


def _inject(pid: int, fault: Fault, alive: set[int]) -> None:
    if fault.error:
        _ptrace(_POKEUSER, pid, _ORIG_RAX, -1)
        _ptrace(_POKEUSER, pid, _RAX, -fault.error)
        return
    _kill(alive)


def _kill(pids: set[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _read_call(pid: int, root: str, ordinal: int) -> Call | None:
    """The call that `pid` is about to make, or None if it changes nothing below `root`."""
    info = ctypes.create_string_buffer(88)
    _ptrace(_INFO, pid, len(info), ctypes.addressof(info))
    number, *arguments = struct.unpack_from("<7Q", info.raw, 24)
    name, places = CALLS[number]
    inside = root + "/"
    paths = tuple(_resolve(pid, kind, arguments[at:]) for kind, at in places)
    if number == 316 and arguments[_RENAME_FLAGS] & _NOREPLACE:
        name = "rename_if_free"
    if not any(f"{path}/".startswith(inside) for path in paths):
        return None
    data = _memory(pid, arguments[1], min(arguments[2], 4096)) if name == "write" else b""
    program = Path(f"/proc/{pid}/exe").readlink().name
    fresh = not os.path.lexists(paths[-1])
    return Call(ordinal, name, program, tuple(os.path.relpath(path, root) for path in paths), fresh, data)


def _resolve(pid: int, kind: str, arguments: list[int]) -> str:
    if kind == FD:
        return str(Path(f"/proc/{pid}/fd/{arguments[0]}").readlink())
    folder = f"/proc/{pid}/cwd"
    if kind == AT:
        descriptor = ctypes.c_int(arguments[0] & 0xFFFFFFFF).value
        folder = folder if descriptor == _AT_FDCWD else f"/proc/{pid}/fd/{descriptor}"
        arguments = arguments[1:]
    text = _memory(pid, arguments[0], 4096).split(b"\0", 1)[0]
    return os.path.normpath(Path(folder).readlink() / os.fsdecode(text))


def _memory(pid: int, address: int, size: int) -> bytes:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        data = b""
        while len(data) < size:  # not across a page that may not be there
            memory.seek(address + len(data))
            try:
                piece = memory.read(min(size - len(data), 4096 - (address + len(data)) % 4096))
            except OSError:
                break
            data += piece
            if not piece or (size == 4096 and b"\0" in piece):
                break
        return data


def _ptrace(request: int, pid: int, address: int, data: int) -> None:
    if _libc.ptrace(request, pid, address, data) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _install_filter() -> None:
    """Stop for the tracer at each of CALLS; let all others pass, and what is opened for reading."""
    load, equal, any_of, answer = 0x20, 0x15, 0x45, 0x06
    lines = []
    for number in CALLS:
        lines += [(load, 0, 0, 0)]
        if number in _OPEN_FLAGS:
            flags_at = 16 + 8 * _OPEN_FLAGS[number]
            lines += [(equal, 0, 4, number), (load, 0, 0, flags_at), (any_of, 0, 1, _CHANGES)]
            lines += [(answer, 0, 0, _STOP), (answer, 0, 0, _PASS)]
        else:
            lines += [(equal, 0, 1, number), (answer, 0, 0, _STOP)]
    lines += [(answer, 0, 0, _PASS)]
    program = b"".join(struct.pack("<HBBI", *line) for line in lines)
    buffer = ctypes.create_string_buffer(program, len(program))
    head = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(lines), ctypes.addressof(buffer)), 16)
    no_new_privileges, set_seccomp, filtered = 38, 22, 2
    if _libc.prctl(no_new_privileges, 1, 0, 0, 0) or _libc.prctl(set_seccomp, filtered, head, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")
