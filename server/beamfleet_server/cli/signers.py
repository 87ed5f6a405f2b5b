"""The keys that a person signs with: key files, encrypted or not, and signers that live in a token or a service.

signers.toml in the configuration directory (or `--signers FILE`), for what securesystemslib has a signer for:

    [anna-token]
    uri = "hsm:2?label=anna"       # as `Signer.from_priv_key_uri` takes it
    public = "anna.pub"            # the public half, beside signers.toml unless the path is absolute

Secrets come from `--passphrase-file`, BEAMFLEET_PASSPHRASE or the terminal; they are never words of a command line.
What a signer gives is held against its public half before anything is written.
"""

import getpass
import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beamfleet_server.cli.contexts import Contexts
from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.files import read_file

if TYPE_CHECKING:
    from beamfleet_bundles.keys import Ask
    from securesystemslib.signer import Signer

PASSPHRASE_VARIABLE = "BEAMFLEET_PASSPHRASE"  # noqa: S105 (a name)
SIGNERS_FILE = "signers.toml"

KeyFiles = Annotated[
    list[Path] | None, typer.Option("--key", metavar="FILE", help="Sign with this key file; repeat for more.")
]
Signers = Annotated[
    list[str] | None,
    typer.Option("--signer", metavar="NAME", help="Sign with this entry of signers.toml; repeat for more."),
]
SignersFile = Annotated[
    Path | None, typer.Option("--signers", metavar="FILE", help="Else signers.toml in the configuration directory.")
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file", metavar="FILE", help="Holds the passphrase or PIN; else $BEAMFLEET_PASSPHRASE, else asked."
    ),
]


class Secrets:
    """Where passphrases and PINs come from."""

    def __init__(self, file: Path | None, environment: Mapping[str, str] = os.environ) -> None:
        self._file = file
        self._environment = environment

    def ask(self, what: str) -> str:
        """The secret; `what` is what a person is asked for. `passphrase.missing` where nobody can be asked."""
        if self._file:
            return read_file(self._file, "the passphrase").decode("utf-8", "replace").rstrip("\r\n")
        if said := self._environment.get(PASSPHRASE_VARIABLE):
            return said
        if not sys.stdin.isatty():
            raise CommandError(
                "passphrase.missing",
                f"the {what} is needed, and there is no terminal to ask for it",
                f"--passphrase-file FILE, or {PASSPHRASE_VARIABLE} in the environment",
            )
        return getpass.getpass(f"{what}: ")

    def ask_twice(self, what: str) -> str:
        """The secret for something new; a person has to type it twice. `passphrase.missing` if they differ."""
        first = self.ask(f"new {what}")
        if not self._file and not self._environment.get(PASSPHRASE_VARIABLE) and self.ask(f"{what} again") != first:
            raise CommandError("passphrase.missing", f"the two are not the same {what}", "type it again")
        return first


def open_signers(
    contexts: Contexts,
    key_files: Sequence[Path] | None,
    names: Sequence[str] | None,
    signers_file: Path | None,
    passphrase_file: Path | None,
) -> "list[Signer]":
    """The signers that the options name, in that order; errors `trust.key_*`, `trust.signer_*`, `signer.*`."""
    from beamfleet_bundles import keys

    secrets = Secrets(passphrase_file)
    opened: list[Signer] = [keys.load(path, _asking(secrets, str(path))) for path in key_files or ()]
    file = signers_file or contexts.directory / SIGNERS_FILE
    return opened + [_open(name, file, secrets) for name in names or ()]


def _open(name: str, file: Path, secrets: Secrets) -> "Signer":
    from beamfleet_bundles import keys
    from beamfleet_bundles.signers import ElsewhereSigner

    known = _read(file)
    if name not in known:
        raise CommandError("signer.unknown", f"there is no signer {name} in {file}", f"known: {', '.join(known)}")
    uri, public = known[name]
    return ElsewhereSigner(uri, keys.read_public(file.parent / public), _asking(secrets, name))


def _read(file: Path) -> dict[str, tuple[str, str]]:
    """URI and public half by name; `signer.malformed`."""
    content = read_file(file, "the signers")
    try:
        tables = tomllib.loads(content.decode())
        found = {}
        for name, table in tables.items():
            match table:
                case {"uri": str() as uri, "public": str() as public, **rest} if not rest:
                    found[name] = (uri, public)
                case _:
                    raise ValueError(f"[{name}] has not just `uri` and `public`")
    except ValueError as error:
        raise CommandError(
            "signer.malformed", f"{file} cannot be read: {error}", '[NAME], then uri = "..." and public = "FILE.pub"'
        ) from error
    return found


def _asking(secrets: Secrets, of: str) -> "Ask":
    return lambda what: secrets.ask(f"{what} of {of}")
