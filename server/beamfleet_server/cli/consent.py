"""Owns the question before what cannot be taken back; whom nobody can ask has to say `--yes`."""

import typer

from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.session import Session


def agreed(session: Session, question: str) -> bool:
    """What a person at the terminal answers; `usage.not_asked` where there is none, or a script reads the answers."""
    if not session.output.stderr.isatty() or not session.output.for_people:
        raise CommandError("usage.not_asked", f"{question.rstrip('?')}: nobody was asked", "add --yes")
    return typer.confirm(question, err=True)


def ask(session: Session, question: str) -> None:
    """Go on only if a person agrees; otherwise the command ends. Errors as in `agreed`."""
    if not agreed(session, question):
        raise typer.Abort
