"""`beamfleet config`: what is set, and where that came from."""

import typer
from beamfleet_bundles.errors import BeamfleetError

from beamfleet_server.cli.options import Printed, examples
from beamfleet_server.cli.output import Column, Format, Item
from beamfleet_server.cli.session import Session

CONFIG_EXAMPLES = examples("beamfleet config", "beamfleet config -o json")


def config(ctx: typer.Context, output: Printed = Format.TABLE) -> None:
    """Show every setting with its source.

    First those of this command line, then those of the server. Sources: default, file, environment, flag. Secrets are
    never shown.
    """
    session = Session.of(ctx, output)
    settings = local_settings(session)
    try:
        settings += [{"side": "server", **setting} for setting in session.client.pages("/config")]
    except BeamfleetError as error:
        session.output.note(f"the server's settings are not shown: {error}")
    session.output.items(settings, _COLUMNS, "key", "")


def local_settings(session: Session) -> list[Item]:
    """The settings of the command line itself: {side, key, value, source}."""
    directory, directory_source = session.config_dir
    name, name_source = session.context_name
    settings: list[tuple[str, object, str]] = [
        ("config_dir", directory, directory_source),
        ("context", name, name_source),
    ]
    if session.contexts.all():
        context = session.context
        settings += [
            ("server", context.server, "file"),
            ("ca", context.ca, "file"),
            ("token", "(set)" if context.token_file.exists() else "", "file"),
            ("keys", context.keys, "default"),
        ]
    return [{"side": "client", "key": key, "value": str(value), "source": source} for key, value, source in settings]


_COLUMNS = (
    Column("SIDE", lambda setting: setting["side"]),
    Column("SETTING", lambda setting: setting["key"]),
    Column("VALUE", lambda setting: setting["value"]),
    Column("SOURCE", lambda setting: setting["source"]),
)
