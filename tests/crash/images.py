"""Owns disks as sparse files in memory: which blocks they hold, and how a block is written or put back."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.crash.states import BLOCK, ZERO, Content


def contents(image: Path) -> Content:
    """The blocks of an image that are not zero."""
    return Content({number: block for number, block in _blocks(image) if any(block)})


def pour(content: Content, size: int, into: Path) -> None:
    """Make the new sparse file `into` of `size` bytes."""
    with into.open("wb") as file:
        file.truncate(size)
    patch(into, content.blocks)


def patch(image: Path, blocks: Mapping[int, bytes]) -> None:
    """Write these blocks."""
    descriptor = os.open(image, os.O_WRONLY)
    try:
        for number, block in blocks.items():
            os.pwrite(descriptor, block, number * BLOCK)
    finally:
        os.close(descriptor)


def restore(image: Path, content: Content) -> None:
    """Undo what a mount has written."""
    was = content.blocks
    patch(image, {number: was.get(number, ZERO) for number, now in _blocks(image) if now != was.get(number, ZERO)})


def _blocks(image: Path) -> Iterator[tuple[int, bytes]]:
    with image.open("rb", buffering=0) as file:
        descriptor, end, at = file.fileno(), image.stat().st_size, 0
        while at < end:
            try:
                at = os.lseek(descriptor, at, os.SEEK_DATA)
            except OSError:  # only a hole is left
                return
            hole = os.lseek(descriptor, at, os.SEEK_HOLE)
            piece = os.pread(descriptor, min(hole - at, 1 << 20), at)
            for within in range(0, len(piece), BLOCK):
                yield (at + within) // BLOCK, piece[within : within + BLOCK]
            at += len(piece)
