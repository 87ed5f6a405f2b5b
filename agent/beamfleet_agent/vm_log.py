"""Owns reading what the VM has said: the launcher keeps it in vm.log, and in vm.log.1 what came before.

Whatever the release printed is hostile until it is here: without colours and other controls, secrets redacted, lines
cut. Reads a bounded end of a plain file, follows no link, waits for nothing. Loaded when it is needed, which is rarely.
"""

import os
import re

from beamfleet_agent import plain_file
from beamfleet_agent.redaction import redact
from beamfleet_agent.reports import clean

TAIL_BYTES = 32_768
_CONTROL = re.compile(r"\x1b(?:\[[0-?]{0,64}[ -/]{0,16}[@-~]?|\][^\x07\x1b\n]{0,512}(?:\x07|\x1b\\)?|.?)")


def tail(path: str, limit: int = TAIL_BYTES) -> bytes:
    """At most the last `limit` bytes of the plain file at `path`; empty if there is none."""
    try:
        descriptor, found = plain_file.opened(path)
    except OSError:
        return b""
    try:
        data = os.pread(descriptor, limit, max(0, found.st_size - limit))
        return data.partition(b"\n")[2] if found.st_size > limit and b"\n" in data else data
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def lines(data: bytes, longest: int) -> list[str]:
    """The lines in `data` that say something, each at most `longest` characters."""
    text = redact(_CONTROL.sub("", data.decode("utf-8", "replace")).replace("\r\n", "\n"))
    said = (clean(line.rstrip(), longest + 1).strip(" ") for line in text.split("\n"))
    return [line if len(line) <= longest else f"{line[: longest - 1]}…" for line in said if line]
