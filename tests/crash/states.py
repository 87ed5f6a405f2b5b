"""Owns which states of a disk a power cut may leave. Pure: it knows writes and flushes, no file system and no file.

Between two flushes lies an epoch. What was written before it began is durable; of what was written in it, the disk may
keep any part. Of that `selections` gives the empty one, prefixes, all but one, each one alone, tears at 4 KiB, and
random subsets. Every epoch is visited; where one has more writes than `Limits` asks for, what is left out is spread
over the whole of it by the random source, and is never its end.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random

from tests.crash.disk import Entry, Flush, Mark, Write

BLOCK = 4096
ZERO = bytes(BLOCK)


@dataclass(frozen=True, slots=True)
class Epoch:
    """What was written between two flushes, in order, and what was said meanwhile.

    All that was said before its end holds for each of its states: none of it may rest on what is not yet durable.
    """

    number: int
    writes: tuple[Write, ...]
    marks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """How many selections of each sort an epoch gets at most."""

    prefixes: int
    singles: int
    all_but_one: int
    tears: int
    subsets: int


def epochs(entries: Iterable[Entry]) -> Iterator[Epoch]:
    """All of them, in order; the last one is what no flush ended."""
    number, writes, marks = 0, list[Write](), list[str]()
    for entry in entries:
        match entry:
            case Write():
                writes.append(entry)
            case Mark(text):
                marks.append(text)
            case Flush():
                yield Epoch(number, tuple(writes), tuple(marks))
                number, writes, marks = number + 1, [], []
    yield Epoch(number, tuple(writes), tuple(marks))


def selections(writes: Sequence[Write], limits: Limits, random: Random) -> Iterator[tuple[Write, ...]]:
    """What of an epoch's writes the disk may have kept. The first is nothing, the second is all."""
    count = len(writes)
    yield ()
    if not count:
        return
    yield tuple(writes)
    if count > 1:
        for length in _spread(range(1, count), limits.prefixes, random):
            yield tuple(writes[:length])
        for at in _spread(range(count - 1), limits.all_but_one, random):
            yield (*writes[:at], *writes[at + 1 :])
        for at in _spread(range(1, count), limits.singles, random):
            yield (writes[at],)
    torn = [at for at, write in enumerate(writes) if len(write.data) > BLOCK]
    for at in _spread(torn, limits.tears, random):
        yield (*writes[:at], _torn(writes[at], random))
    if count > 2:  # of two, the subsets have all been given
        for _ in range(limits.subsets):
            yield tuple(write for write in writes if random.getrandbits(1))


class Content:
    """The content of a disk by blocks, as far as it was given, and a fingerprint of it that changes with each block."""

    def __init__(self, blocks: Mapping[int, bytes] | None = None) -> None:
        self.blocks = dict(blocks or {})
        self.fingerprint = 0

    def with_writes(self, writes: Iterable[Write]) -> tuple[dict[int, bytes], int]:
        """The blocks that these writes change, as they are then, and the fingerprint of the whole."""
        changed: dict[int, bytearray] = {}
        for write in writes:
            at, data = write.offset, memoryview(write.data)
            while data:
                number, within = divmod(at, BLOCK)
                size = min(BLOCK - within, len(data))
                if number not in changed:
                    changed[number] = bytearray(self.blocks.get(number, ZERO))
                changed[number][within : within + size] = data[:size]
                at, data = at + size, data[size:]
        fingerprint, different = self.fingerprint, {}
        for number, block in changed.items():
            old, new = self.blocks.get(number, ZERO), bytes(block)
            if old != new:
                fingerprint ^= _hash(number, old) ^ _hash(number, new)
                different[number] = new
        return different, fingerprint

    def apply(self, writes: Iterable[Write]) -> dict[int, bytes]:
        """Take these writes for good; the blocks that they changed."""
        changed, self.fingerprint = self.with_writes(writes)
        self.blocks |= changed
        return changed


def _torn(write: Write, random: Random) -> Write:
    """The first or the last of the write's blocks of 4 KiB, at least one and not all."""
    edge = BLOCK * random.randrange(1, (len(write.data) + BLOCK - 1) // BLOCK)
    if random.getrandbits(1):
        return Write(write.offset, write.data[:edge])
    return Write(write.offset + edge, write.data[edge:])


def _spread(numbers: Sequence[int], most: int, random: Random) -> Sequence[int]:
    if len(numbers) <= most:
        return numbers
    return sorted(random.sample(numbers, most))


def _hash(number: int, block: bytes) -> int:
    if block == ZERO:
        return 0
    return int.from_bytes(blake2b(block, digest_size=16, salt=number.to_bytes(16)).digest())
