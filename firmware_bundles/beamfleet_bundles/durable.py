"""Owns writing small files so that a power cut leaves the old bytes or the new ones, never half; never reads them.

Standard library only, and no pathlib: the resident agent is 0.5 MB smaller without it. The order of every write: a
temporary file beside the real one, fsync, one atomic step into the real name, fsync of the directory. `replace` is for
files with one writer: its temporary name is fixed, so that what a power cut left behind is overwritten. `create` bears
rivals: of several, one wins and the others are told.
"""

import os
import threading

AnyPath = str | os.PathLike[str]


def replace(path: AnyPath, data: bytes, mode: int = 0o644) -> bool:
    """Makes `path` hold `data`. False, and no write at all, when it already did: flash wears. Error: OSError."""
    folder, name = os.path.split(path)
    if _holds(path, data):
        sync_directory(folder or ".")  # whoever wrote it may have died between the name and its sync
        return False
    written = os.path.join(folder, f".{name}.new")
    _remove(written)
    _write(written, data, mode)
    os.replace(written, path)
    sync_directory(folder or ".")
    return True


def create(path: AnyPath, data: bytes, mode: int = 0o600) -> None:
    """Makes the new file `path` hold `data`; FileExistsError, and nothing touched, where a file is already."""
    folder, name = os.path.split(path)
    written = os.path.join(folder, f".{name}.{threading.get_native_id()}.new")
    _remove(written)
    _write(written, data, mode)
    try:
        os.link(written, path)  # unlike a rename it refuses an existing name, unlike O_EXCL it never shows half a file
    finally:
        os.unlink(written)
    sync_directory(folder or ".")


def sync_directory(directory: AnyPath) -> None:
    """Makes the names in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _holds(path: AnyPath, data: bytes) -> bool:
    if os.path.islink(path) or not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read() == data


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _write(path: str, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(data)
        file.flush()
        os.fsync(descriptor)
