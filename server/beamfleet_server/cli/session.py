"""One run of the command: where its configuration is, which context it means, how it prints, and its connection.

Made by `main`, filled in by the global options, asked by every command. What is not needed is not made: `--help`
opens no file and no connection.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import typer

from beamfleet_server.cli.client import Client
from beamfleet_server.cli.contexts import Context, Contexts
from beamfleet_server.cli.output import Format, Output

CONFIG_DIR_VARIABLE = "BEAMFLEET_CONFIG_DIR"
CONTEXT_VARIABLE = "BEAMFLEET_CONTEXT"


class Session:
    def __init__(self, output: Output, environment: Mapping[str, str]) -> None:
        self.output = output
        self._environment = environment
        self._config_dir = ""
        self._context_name = ""
        self._client: Client | None = None

    @classmethod
    def here(cls) -> "Session":
        """A session on this process's streams and environment."""
        return cls(Output(sys.stdout, sys.stderr), os.environ)

    @classmethod
    def of(cls, ctx: typer.Context, output: Format | None = None) -> "Session":
        """The session of a running command, printing in this format, if one is named, from now on."""
        session = cast("Session", ctx.find_root().obj)
        if output is not None:
            session.output.format = output
        return session

    def choose(self, config_dir: str, context: str) -> None:
        """Take the global flags; "" where one was not given."""
        self._config_dir = config_dir
        self._context_name = context

    @property
    def config_dir(self) -> tuple[Path, str]:
        """The configuration directory and where that choice came from: flag, environment or default."""
        if self._config_dir:
            return Path(self._config_dir), "flag"
        if named := self._environment.get(CONFIG_DIR_VARIABLE):
            return Path(named), "environment"
        return Path.home() / ".config" / "beamfleet", "default"

    @property
    def context_name(self) -> tuple[str, str]:
        """The context's name and where that came from: flag, environment, file, or "" and default."""
        if self._context_name:
            return self._context_name, "flag"
        if named := self._environment.get(CONTEXT_VARIABLE):
            return named, "environment"
        current = self.contexts.current()
        return current, "file" if current else "default"

    @property
    def contexts(self) -> Contexts:
        return Contexts(self.config_dir[0])

    @property
    def context(self) -> Context:
        return self.contexts.get(self.context_name[0])

    def another(self) -> "Session":
        """The same context with a connection of its own, for another thread."""
        other = Session(self.output, self._environment)
        other.choose(self._config_dir, self._context_name)
        return other

    def mark(self) -> None:
        """Say below what was shown that the server has development keys, if it has."""
        if self.output.shown and self._client is not None and self._client.development:
            self.output.note("development keys: not for production")

    def close(self) -> None:
        """End the connection, if there is one."""
        if self._client is not None:
            self._client.close()

    @property
    def client(self) -> Client:
        if self._client is None:
            self._client = Client.of(self.context)
        return self._client
