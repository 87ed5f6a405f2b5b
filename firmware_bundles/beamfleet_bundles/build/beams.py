"""Owns the `.beam` files of a release: un-gzips them, refuses broken ones, counts what debug information costs.

The loader takes both forms, but a gzipped file ruins the delta to the next release (beam-facts §5).
"""

import re
import zlib

from beamfleet_bundles.build.tree import Tree
from beamfleet_bundles.errors import BundleError

MAX_BEAM = 64 << 20
"""Largest .beam file once unpacked, in bytes."""
_CODE = re.compile(r"lib/[^/]+/ebin/[^/]+\.beam|releases/[^/]+/consolidated/[^/]+\.beam")
_DEBUG_CHUNKS = (b"Dbgi", b"Abst", b"Docs", b"ExDc")


def normalise(tree: Tree) -> list[str]:
    """Un-gzip every `.beam` of the tree; returns what a user should know. Error: `release.broken_beam`."""
    unstripped = debug = 0
    for path in sorted(tree.files):
        if not _CODE.fullmatch(path):
            continue
        data = tree.read(path, MAX_BEAM)
        if data.startswith(b"\x1f\x8b"):
            data = _gunzip(path, data)
            tree.replace(path, data)
        size = _debug_size(path, data)
        unstripped += size > 0
        debug += size
    if not unstripped:
        return []
    advice = "{debug_info, strip} in relx, strip_beams: true in mix, beam_lib:strip_release/1 for systools"
    return [f"{unstripped} .beam files hold {debug // 1000} kB of debug information, which updates carry: {advice}"]


def _gunzip(path: str, data: bytes) -> bytes:
    decompressor = zlib.decompressobj(wbits=31)
    try:
        plain = decompressor.decompress(data, MAX_BEAM)
    except zlib.error as error:
        raise _broken(path, str(error)) from None
    if not decompressor.eof or decompressor.unused_data:
        raise _broken(path, "it is truncated, too large, or followed by something")
    return plain


def _debug_size(path: str, data: bytes) -> int:
    """Bytes of the chunks that only tools read; walks the IFF container from end to end."""
    if data[:4] != b"FOR1" or data[8:12] != b"BEAM" or int.from_bytes(data[4:8]) + 8 > len(data):
        raise _broken(path, "it is no BEAM module")
    end, position, debug = int.from_bytes(data[4:8]) + 8, 12, 0
    while position + 8 <= end:
        size = int.from_bytes(data[position + 4 : position + 8])
        if position + 8 + size > end:
            raise _broken(path, "a chunk of it is cut short")
        if data[position : position + 4] in _DEBUG_CHUNKS:
            debug += size
        position += 8 + size + -size % 4
    return debug


def _broken(path: str, why: str) -> BundleError:
    return BundleError("release.broken_beam", f"{path} is broken: {why}", "build the release again")
