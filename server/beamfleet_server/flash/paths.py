"""Owns how a path inside a foreign root is followed: as that system would, and never out of it. Only reads links."""

import os
from pathlib import Path

_MOST_LINKS = 40


def inside(root: Path, path: str) -> Path | None:
    """The real place of `path` below `root` when every link is followed as if `root` were /; None for a loop. Its last
    parts need not exist."""
    root = Path(os.path.realpath(root))
    left, done, links = [part for part in reversed(path.split("/")) if part], list[str](), 0
    while left:
        part = left.pop()
        if part == ".":
            continue
        if part == "..":
            done = done[:-1]
            continue
        here = root.joinpath(*done, part)
        try:
            target = str(here.readlink())
        except OSError:
            done.append(part)
            continue
        links += 1
        if links > _MOST_LINKS:
            return None
        if target.startswith("/"):
            done = []
        left += [each for each in reversed(target.split("/")) if each]
    return root.joinpath(*done)


def shown(root: Path, place: Path) -> str:
    """A place below the root as the target itself calls it."""
    return "/" + str(place.relative_to(os.path.realpath(root)))
