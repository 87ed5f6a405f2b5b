"""Owns what a path inside a release may look like and where its links may lead; touches no filesystem.

The answers are the ends of sentences ("is absolute"), empty when all is well; archive and manifest have codes for them.
"""

import unicodedata
from collections.abc import Collection, Iterable, Mapping

MAX_PATH = 512
"""Longest path, in bytes of UTF-8."""
MAX_PART = 255
"""Longest part of a path, in bytes of UTF-8: what Linux filesystems take."""
MAX_DEPTH = 32
"""Most parts of a path."""


def printable(text: str) -> bool:
    """Whether `text` is free of control characters, newlines and halves of surrogate pairs, and in NFC."""
    if text.isascii():
        return text.isprintable()
    return unicodedata.is_normalized("NFC", text) and not any(
        unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text
    )


def path_problem(path: str) -> str:
    """What is wrong with a relative path; empty when nothing is."""
    if not path:
        return "is empty"
    if path[0] == "/":
        return "is absolute"
    if not printable(path):
        return "holds control characters or is not in NFC"
    if len(path) > MAX_PATH or (not path.isascii() and len(path.encode()) > MAX_PATH):
        return f"is longer than {MAX_PATH} bytes"
    parts = path.split("/")
    if len(parts) > MAX_DEPTH:
        return f"is deeper than {MAX_DEPTH} levels"
    for part in parts:
        if part in ("", ".", ".."):
            return f"has a part {part!r}"
        if len(part.encode()) > MAX_PART:
            return f"has a part longer than {MAX_PART} bytes"
    return ""


def parents(path: str) -> Iterable[str]:
    """The directories above `path`, nearest first, without the root of the release."""
    while (end := path.rfind("/")) > 0:
        path = path[:end]
        yield path


def directories(paths: Iterable[str]) -> set[str]:
    """Every directory that these paths imply."""
    found: set[str] = set()
    for path in paths:
        for parent in parents(path):
            if parent in found:
                break
            found.add(parent)
    return found


def link_problem(path: str, links: Mapping[str, str], files: Collection[str], folders: Collection[str]) -> str:
    """What is wrong with the link at `path`; empty when it leads to a file or directory inside the release.

    A target may pass through directories only: since no link lies on its way, what the words say is where the kernel
    goes. Its last step may be another link, which is judged by itself; a circle is refused here.
    """
    seen = set()
    while path in links:
        if path in seen:
            return "leads in a circle"
        seen.add(path)
        target = links[path]
        if not target or target[0] == "/" or not printable(target) or len(target.encode()) > MAX_PATH:
            return f"leads to {target[:80]!r}, outside the release" if target[:1] == "/" else "has no usable target"
        place = path.split("/")[:-1]
        for part in target.split("/"):
            if place and "/".join(place) in links:
                return f"leads through the link {'/'.join(place)}"
            if part == "..":
                if not place:
                    return f"leads to {target[:80]!r}, outside the release"
                place.pop()
            elif part not in ("", "."):
                place.append(part)
        path = "/".join(place)
    return "" if path in files or path in folders else "leads to nothing in the release"
