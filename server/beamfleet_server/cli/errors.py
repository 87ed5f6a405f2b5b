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
        "evidence.archive",
        "evidence.key_missing",
        "evidence.late",
        "file.exists",
        "file.failed",
        "file.unreadable",
        "init.foreign_root",
        "init.missing",
        "keys.exists",
        "keys.missing",
        "keys.nothing_kept",
        "keys.several",
        "login.missing",
        "login.url",
        "metadata.untrusted",
        "passphrase.missing",
        "plan.declined",
        "plan.different",
        "plan.key",
        "plan.malformed",
        "plan.not_wanted",
        "plan.nothing",
        "plan.other_fleet",
        "plan.role",
        "plan.threshold",
        "plan.unsigned",
        "publish.contended",
        "release.unsigned",
        "release.withdrawn_alone",
        "rollout.none",
        "rollout.plan_file",
        "server.ca_missing",
        "server.malformed",
        "server.timeout",
        "server.unavailable",
        "server.unreachable",
        "server.untrusted",
        "signer.malformed",
        "signer.unknown",
        "token.missing",
        "usage.arguments",
        "usage.batch",
        "usage.built",
        "usage.bundle",
        "usage.deliveries",
        "usage.development",
        "usage.duration",
        "usage.environment",
        "usage.fact",
        "usage.file",
        "usage.identity",
        "usage.key",
        "usage.label",
        "usage.network",
        "usage.not_asked",
        "usage.phase",
        "usage.plan",
        "usage.selector",
        "usage.server",
        "usage.target",
        "usage.token",
        "webhook.not_taken",
        "usage.verdict",
        "usage.window",
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
