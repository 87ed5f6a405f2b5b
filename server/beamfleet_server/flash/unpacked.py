"""Owns a package that lies in a root without a packager: its files, put there one by one, and the list of them.

Each file is written beside its name and renamed, so that a kill leaves old files or new ones; the list is written
before anything is unpacked, with what it will be and what it was, so that nothing is ever forgotten.
"""

import io
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

from beamfleet_bundles import durable

from beamfleet_server.flash.contents import INSTALLED, contents
from beamfleet_server.flash.errors import FlashError
from beamfleet_server.flash.looking import text
from beamfleet_server.flash.paths import inside
from beamfleet_server.flash.users import with_users

_LIST = INSTALLED.lstrip("/")


def install(root: Path, package: Path) -> None:
    """Unpack it over what an older one has left, remove what that one had more, make the users."""
    brought = contents(package)
    before = listed(root)
    _write_list(root, sorted({*before, *brought.paths}))
    with tempfile.TemporaryFile() as file:
        brought.write_tar(file)
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                _lay(root, member, tar)
    _drop(root, set(before) - set(brought.paths))
    _write_list(root, brought.paths)
    _make_users(root)


def listed(root: Path) -> list[str]:
    """The paths of the package that is there; none when none is."""
    return [line for line in text(root, _LIST).splitlines() if line.startswith("/")]


def remove(root: Path) -> bool:
    """Remove the files of the list; False when there is none."""
    paths = listed(root)
    if not paths:
        return False
    _drop(root, set(paths))
    if place := inside(root, _LIST):
        place.unlink(missing_ok=True)
        _remove_if_empty(place.parent)
    return True


def _lay(root: Path, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
    folder, _, name = member.name.rpartition("/")
    place = _folder(root, folder)
    if member.isdir():
        _folder(root, member.name).chmod(member.mode & 0o777)
        return
    target, written = place / name, place / f".{name}.beamfleet"
    if target.is_dir() and not target.is_symlink():
        raise FlashError("flash.no_root", f"/{member.name} is a directory", "the package has a file of that name")
    written.unlink(missing_ok=True)
    if member.issym():
        written.symlink_to(member.linkname)
    else:
        with tar.extractfile(member) or io.BytesIO() as source, written.open("xb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
            os.fchmod(file.fileno(), member.mode & 0o755)
        os.utime(written, (member.mtime, member.mtime))
    written.replace(target)


def _folder(root: Path, path: str) -> Path:
    """The directory of that name, which is made; a link for it is followed inside of the root."""
    place = inside(root, path)
    try:
        if place is None:
            raise NotADirectoryError
        place.mkdir(mode=0o755, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise FlashError("flash.no_root", f"/{path} is no directory", "look at what is there in the root") from None
    return place


def _drop(root: Path, paths: set[str]) -> None:
    for path in sorted(paths, reverse=True):  # what is in a directory before the directory
        folder, _, name = path.rpartition("/")
        place = inside(root, folder)
        if place is None or not os.path.lexists(place / name):
            continue
        if (place / name).is_dir() and not (place / name).is_symlink():
            _remove_if_empty(place / name)
        else:
            (place / name).unlink()


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        pass  # something else is in it


def _write_list(root: Path, paths: tuple[str, ...] | list[str]) -> None:
    folder, _, name = _LIST.rpartition("/")
    durable.replace(_folder(root, folder) / name, "".join(f"{path}\n" for path in paths).encode())


def _make_users(root: Path) -> None:
    names = ("etc/passwd", "etc/group", "etc/shadow")
    before = tuple(text(root, name) for name in names)
    for name, content, old in zip(names, with_users(*before), before, strict=True):
        place = inside(root, name)
        if place and content != old:
            mode = place.stat().st_mode & 0o777 if place.exists() else 0o644
            owner = place.stat() if place.exists() else None
            durable.replace(place, content.encode(), mode)
            if owner:
                os.chown(place, owner.st_uid, owner.st_gid)
