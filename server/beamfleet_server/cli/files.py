"""Reading the small files that flags name: tokens, certificates, settings. Nothing is written here."""

import sys
from pathlib import Path

from beamfleet_server.cli.errors import CommandError

MAX_SIZE = 1 << 20


def read_file(path: Path, what: str) -> bytes:
    """The content of a file of at most 1 MiB; `file.unreadable`, which calls it `what`."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise CommandError(
            "file.unreadable", f"cannot read {what}, {path}: {error.strerror}", "check the path"
        ) from error
    if len(content) > MAX_SIZE:
        raise CommandError("file.unreadable", f"{path} is too large for {what}", "check the path")
    return content


def read_token(source: str) -> str:
    """The token in a file, or on stdin for "-": one word. `token.missing`, `file.unreadable`."""
    content = sys.stdin.buffer.read(MAX_SIZE) if source == "-" else read_file(Path(source), "the token")
    token = content.decode("ascii", "replace").strip()
    if not token.isascii() or not token.isprintable() or " " in token or not token:
        raise CommandError(
            "token.missing",
            f"there is no token in {source}",
            "one line, as in the server's admin.token or as `beamfleet token create` prints it",
        )
    return token
