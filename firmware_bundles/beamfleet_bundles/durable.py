"""Owns writing small files so that a power cut leaves the old bytes or the new ones, never half; never reads them.

Standard library only. The order of every write: a temporary file beside the real one, fsync, one atomic step into the
real name, fsync of the directory. `replace` is for files with one writer: its temporary name is fixed, so that what a
power cut left behind is overwritten. `create` bears rivals: of several, one wins and the others are told.
"""

import os
import threading
from pathlib import Path


def replace(path: Path, data: bytes, mode: int = 0o644) -> bool:
    """Makes `path` hold `data`. False, and no write at all, when it already did: flash wears. Error: OSError."""
    if path.is_file() and not path.is_symlink() and path.read_bytes() == data:
        return False
    written = path.with_name(f".{path.name}.new")
    written.unlink(missing_ok=True)
    _write(written, data, mode)
    written.replace(path)
    sync_directory(path.parent)
    return True


def create(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Makes the new file `path` hold `data`; FileExistsError, and nothing touched, where a file is already."""
    written = path.with_name(f".{path.name}.{threading.get_native_id()}.new")
    written.unlink(missing_ok=True)
    _write(written, data, mode)
    try:
        os.link(written, path)  # unlike a rename it refuses an existing name, unlike O_EXCL it never shows half a file
    finally:
        written.unlink()
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Makes the names in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(data)
        file.flush()
        os.fsync(descriptor)
