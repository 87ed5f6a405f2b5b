"""Owns the places for what is shown once only, such as a token, or takes long to come, such as evidence.

The place is tested before that is asked for, so that nothing is made in vain; what is there already stays.
"""

import errno
import os
from pathlib import Path

from beamfleet_bundles import durable

from beamfleet_server.cli.errors import CommandError

_HINT = "name a new place in a directory where you may write"


def check_new(path: Path) -> None:
    """Refuse a place where no new file can be made, and leave nothing there; `file.exists`, `file.failed`."""
    if path.is_dir():
        raise CommandError("file.failed", f"{path} is a directory, and a file is to be written", _HINT)
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        path.unlink()
    except FileExistsError:
        what = f"{path} exists already"
        raise CommandError("file.exists", what, "it is not overwritten; name a new file, or remove it first") from None
    except OSError as error:
        raise _unwritable(path, error) from error


def check_new_folder(path: Path) -> None:
    """Refuse a place where no new directory can be made, and leave nothing there; `file.exists`, `file.failed`."""
    try:
        path.mkdir(mode=0o700)
        path.rmdir()
    except FileExistsError:
        raise CommandError("file.exists", f"{path} exists already", "name a new directory") from None
    except OSError as error:
        raise _unwritable(path, error) from error


def write_secret(path: Path, secret: str) -> None:
    """One line, for its owner alone (0600), in a place that was tested; `file.failed`."""
    try:
        durable.replace(path, secret.encode() + b"\n", 0o600)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> CommandError:
    why = "its directory is not there" if error.errno == errno.ENOENT else error.strerror
    return CommandError("file.failed", f"{path} cannot be written: {why}", _HINT)
