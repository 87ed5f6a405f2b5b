"""Taking apart the archive that a device has made: whoever made it, it stays inside one new directory, and small.

Who has the public half of a key can seal anything for it, so an archive is hostile. Only plain files with plain names
are written, each once, never over anything, readable by nobody else; whatever else is in it refuses the whole.
"""

import io
import os
import re
import sys
import tarfile
from pathlib import Path

from beamfleet_server.cli.errors import CommandError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_BYTES = 64 << 20
MAX_FILES = 64
DAMAGED = (EOFError, ValueError, ArithmeticError, LookupError, RecursionError)
"""What reading a hostile archive may end with, beside errors of tar and zstd."""
FOLDER = "boot"
_NAME = re.compile(rf"(?:{FOLDER}/)?[A-Za-z0-9][A-Za-z0-9._-]{{0,99}}")


def unpack(archive: bytes, folder: Path) -> list[str]:
    """The files of a tar archive in zstd, now in `folder`, which must be new; error `evidence.archive`."""
    files = read(archive)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        raise CommandError("evidence.archive", f"{folder} exists", "name another directory with --out") from None
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)
    return [*files]


def read(archive: bytes) -> dict[str, bytes]:
    """The files of an archive by name, in their order; error `evidence.archive`."""
    files: dict[str, bytes] = {}
    left = MAX_BYTES
    try:
        with tarfile.open(fileobj=io.BytesIO(_opened(archive)), mode="r:") as tar:
            for member in tar:
                if not _plain(member) or member.name in files:
                    raise _refused(f"it has {member.name[:80]!r}, which is no plain file of its own")
                left -= member.size
                content = tar.extractfile(member)
                if left < 0 or len(files) >= MAX_FILES or content is None:
                    raise _refused("it has too much in it")
                files[member.name] = content.read(member.size)
    except (tarfile.TarError, *DAMAGED, zstd.ZstdError) as error:
        raise _refused(f"it is damaged: {error}") from None
    if not files:
        raise _refused("nothing is in it")
    return files


def _plain(member: tarfile.TarInfo) -> bool:
    """Nothing but bytes, as many as it says, under a name that can be a file."""
    named = _NAME.fullmatch(member.name) is not None and member.name != FOLDER
    return named and member.isreg() and not member.issparse() and member.size >= 0


def _opened(archive: bytes) -> bytes:
    decompressor = zstd.ZstdDecompressor()
    data = decompressor.decompress(archive, max_length=MAX_BYTES + 1)
    if not decompressor.eof:
        raise _refused("it has too much in it, or an end is missing")
    return data


def _refused(why: str) -> CommandError:
    return CommandError("evidence.archive", f"the archive is not one of ours: {why}", "--sealed keeps it as it came")
