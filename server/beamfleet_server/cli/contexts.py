"""What an operator's command line keeps on disk: servers, certificates and tokens, one context each.

CONFIG_DIR, 0700:

    config.toml              current = "NAME" and one table [contexts.NAME] with server = "https://HOST:PORT"
    contexts/NAME/ca.pem     the fleet CA; the server is checked against it and nothing else
    contexts/NAME/token      the bearer token, 0600
    keys/NAME/               development keys and the pinned root (owned by `signing`)

A file is replaced whole, and every change happens under one lock, so that two commands at a time lose nothing. This
module never talks to a server and never prints.
"""

import contextlib
import fcntl
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from beamfleet_bundles import durable

from beamfleet_server.cli.errors import CommandError

DEFAULT_NAME = "default"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Context:
    """One server as this operator knows it. `server` is an https URL without a path, `directory` is CONFIG_DIR."""

    name: str
    server: str
    directory: Path

    @property
    def ca(self) -> Path:
        return self.directory / "contexts" / self.name / "ca.pem"

    @property
    def token_file(self) -> Path:
        return self.directory / "contexts" / self.name / "token"

    @property
    def keys(self) -> Path:
        return self.directory / "keys" / self.name

    def token(self) -> str:
        """The bearer token. `login.missing` when there is none (logged out)."""
        try:
            return self.token_file.read_text().strip()
        except FileNotFoundError:
            raise CommandError(
                "login.missing",
                f"there is no token for context {self.name}",
                f"beamfleet login {self.server} --token-file FILE --ca FILE --context {self.name}",
            ) from None


class Contexts:
    """The contexts of one configuration directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._file = directory / "config.toml"

    def all(self) -> list[Context]:
        """Every context, by name."""
        _, servers = self._read()
        return [Context(name, server, self.directory) for name, server in sorted(servers.items())]

    def current(self) -> str:
        """The name of the context that commands use when none is named, or "" when there is none."""
        return self._read()[0]

    def get(self, name: str = "") -> Context:
        """The named context, or the current one. `login.missing` without any, `context.unknown` without this one."""
        current, servers = self._read()
        name = name or current
        if not servers or not name:
            raise CommandError(
                "login.missing",
                f"no server is known in {self.directory}",
                "beamfleet login URL --token-file FILE --ca FILE (`beamfleet serve` prints this line at its start)",
            )
        if name not in servers:
            raise CommandError("context.unknown", f"there is no context {name}", f"known: {', '.join(sorted(servers))}")
        return Context(name, servers[name], self.directory)

    def save(self, name: str, server: str, token: str, ca_pem: bytes) -> Context:
        """Make or replace a context and make it the current one. Token and certificate are on disk first."""
        context = Context(check_name(name), check_server(server), self.directory)
        with locked(self.directory):
            make_private(context.ca.parent)
            durable.replace(context.ca, ca_pem)
            durable.replace(context.token_file, token.encode() + b"\n", 0o600)
            _, servers = self._read()
            self._write(name, servers | {name: context.server})
        return context

    def use(self, name: str) -> Context:
        """Make a context the current one."""
        context = self.get(name)
        with locked(self.directory):
            _, servers = self._read()
            self._write(name, servers)
        return context

    def trust(self, name: str, ca_pem: bytes) -> None:
        """Check the server of a context against these authorities from now on."""
        ca = self.get(name).ca
        with locked(self.directory):
            durable.replace(ca, ca_pem)

    def forget_token(self, name: str) -> bool:
        """Remove the token of a context; the context stays. True when there was one."""
        token = self.get(name).token_file
        there = token.exists()
        token.unlink(missing_ok=True)
        return there

    def _read(self) -> tuple[str, dict[str, str]]:
        try:
            document = tomllib.loads(self._file.read_text())
            current = document.get("current", "")
            servers = {name: table["server"] for name, table in document.get("contexts", {}).items()}
            if not isinstance(current, str) or not all(isinstance(server, str) for server in servers.values()):
                raise TypeError("current and server are strings")
        except FileNotFoundError:
            return "", {}
        except OSError as error:
            what = f"{self._file} cannot be read: {error.strerror}"
            hint = "check who may read it, or name another directory with --config-dir"
            raise CommandError("config.malformed", what, hint) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            raise CommandError(
                "config.malformed", f"{self._file} cannot be read: {error}", "mend it, or remove it and log in again"
            ) from error
        return current, servers

    def _write(self, current: str, servers: dict[str, str]) -> None:
        lines = [f"current = {json.dumps(current)}"]
        for name, server in sorted(servers.items()):
            lines += ["", f"[contexts.{json.dumps(name)}]", f"server = {json.dumps(server)}"]
        durable.replace(self._file, ("\n".join(lines) + "\n").encode())


def check_name(name: str) -> str:
    """A context's name, or `context.name`."""
    if not _NAME.fullmatch(name):
        raise CommandError(
            "context.name",
            f"{name!r} is not a name for a context",
            "small letters, digits, dot, dash, underscore; at most 63",
        )
    return name


def check_server(server: str) -> str:
    """An https URL without path, or `login.url`. Plain http is refused: the token would cross the network readable."""
    parts = urlsplit(server.rstrip("/"))
    try:
        plain = parts.port is None or parts.port > 0
    except ValueError:
        plain = False
    if (
        not plain
        or parts.scheme != "https"
        or not parts.hostname
        or parts.geturl() != f"https://{parts.netloc}"
        or "@" in server
    ):
        raise CommandError("login.url", f"{server!r} is not the URL of a server", "https://HOST:PORT, without a path")
    return parts.geturl()


def make_private(directory: Path) -> Path:
    """Make a directory, and those above it that are missing, for this user alone; `config.unwritable`."""
    try:
        for path in (*reversed(directory.parents), directory):
            path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise CommandError(
            "config.unwritable", f"cannot make {directory}: {error.strerror}", "name another place with --config-dir"
        ) from error
    return directory


@contextlib.contextmanager
def locked(directory: Path, name: str = ".lock") -> Iterator[None]:
    """Hold a directory's lock; another command waits until it is free. The kernel lets go when the process ends."""
    make_private(directory)
    with (directory / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
