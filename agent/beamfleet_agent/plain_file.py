"""Owns opening what somebody else has written: a plain file, through no link, waiting for nobody.

Logs, dumps and answers lie where other users write: what looks like one may be a link, a FIFO, or another's file.
"""

import errno
import os
import stat

FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def opened(path: str) -> tuple[int, os.stat_result]:
    """A descriptor, and what it is of; OSError if it is none."""
    descriptor = os.open(path, FLAGS)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no plain file", path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor, found


def head(path: str, limit: int) -> bytes:
    """At most the first `limit` bytes; empty if there are none to be had."""
    try:
        descriptor, _ = opened(path)
    except OSError:
        return b""
    try:
        return os.pread(descriptor, limit, 0)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
