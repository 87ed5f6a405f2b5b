"""Owns the root of every error of beamfleet and the one of this distribution; never logs, never imports.

BeamfleetError                 every error a user may see
├── BundleError                beamfleet_bundles: bundles, names, trust, messages (ERRORS.md lists the codes)
├── AgentError                 beamfleet_agent.errors
└── ServerError                beamfleet_server.errors
"""


class BeamfleetError(Exception):
    """What was wrong (`message`), under a stable dotted `code`, and how to mend it (`hint`, may be empty).

    The code is the same in logs, in MQTT reports, in problem+json and on the command line. A message often quotes what
    came from somebody hostile: it is one line, and what is not printable stands there as its escape.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        shown = message if message.isprintable() else "".join(map(_shown, message))
        super().__init__(code, shown, hint)
        self.code = code
        self.message = shown
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class BundleError(BeamfleetError):
    """A bundle, a manifest, a name, a message or a signature is not what it should be."""


def _shown(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]
