"""`beamfleet init`: the first signing keys of a fleet."""

from typing import Annotated

import typer

from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.options import Printed, examples
from beamfleet_server.cli.output import Format
from beamfleet_server.cli.session import Session

EXAMPLES = examples("beamfleet init --development")


def init(
    ctx: typer.Context,
    development: Annotated[bool, typer.Option("--development", help="One key per role, all on this machine.")] = False,
    output: Printed = Format.TABLE,
) -> None:
    """Make the development keys of a fleet; `beamfleet keys` is for production.

    The first metadata is signed here, and the server gets the public halves. Keys go to keys/CONTEXT in the
    configuration directory and stay there; keep a copy. Safe to repeat.
    """
    from beamfleet_server.cli.signing import Signing

    session = Session.of(ctx, output)
    if not development:
        raise CommandError(
            "usage.development",
            "production keys are made by people, not by this command",
            "beamfleet keys plan init, with the public halves of their keys; or beamfleet init --development",
        )
    context = session.context
    made = Signing(session.client, context.keys).initialise()
    done = "initialised" if made else "initialised already"
    session.output.done(
        {"server": context.server, "created": made, "development": True, "keys": str(context.keys)},
        f"{context.server} is {done}; keys in {context.keys}",
        "server",
        "beamfleet product create NAME",
    )
    if session.output.for_people:
        session.output.note("development keys: each alone is enough, and all are on this machine. Not for production.")
