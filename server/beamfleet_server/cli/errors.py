"""What the command line itself refuses, and the exit code of every way to end."""

from beamfleet_bundles.errors import BeamfleetError

from beamfleet_server.errors import ServerError

DONE, ERROR, USAGE, HALTED, ABORTED, DEADLINE = range(6)

CODES = frozenset(
    {
        "audit.broken",
        "audit.malformed",
        "config.malformed",
        "config.unwritable",
        "context.name",
        "context.unknown",
        "file.failed",
        "file.unreadable",
        "flash.agent_failed",
        "flash.agent_missing",
        "flash.other_device",
        "init.foreign_root",
        "init.missing",
        "keys.missing",
        "login.missing",
        "login.url",
        "metadata.untrusted",
        "publish.contended",
        "rollout.none",
        "server.ca_missing",
        "server.malformed",
        "server.timeout",
        "server.unavailable",
        "server.unreachable",
        "server.untrusted",
        "token.missing",
        "usage.built",
        "usage.development",
        "usage.duration",
        "usage.environment",
        "usage.label",
        "usage.selector",
    }
)
"""Every code of the command line's own; all others come from the server or from beamfleet_bundles."""


class CommandError(ServerError):
    """The command line refused or could not do something; `code` is one of `CODES`."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        if code not in CODES:
            raise KeyError(code)
        BeamfleetError.__init__(self, code, message, hint)


class RemoteError(ServerError):
    """What another program, the server or the agent's setup, refused: its code, message and hint, and HTTP's status."""

    def __init__(self, code: str, message: str, hint: str, status: int = 0) -> None:
        BeamfleetError.__init__(self, code, message, hint)
        self.status = status


def exit_code(error: BeamfleetError) -> int:
    """2 for what was typed wrongly, 1 for everything else that went wrong."""
    return USAGE if error.code.startswith("usage.") else ERROR
