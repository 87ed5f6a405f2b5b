"""`beamfleet login`, `logout` and `context`: which server, by which certificate, with which token."""

from pathlib import Path
from typing import Annotated

import typer

from beamfleet_server.cli import completion
from beamfleet_server.cli.client import Client
from beamfleet_server.cli.contexts import DEFAULT_NAME, Context, check_name, check_server
from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.files import read_file, read_token
from beamfleet_server.cli.options import Printed, examples, group
from beamfleet_server.cli.output import Column, Format, Item
from beamfleet_server.cli.quantities import show_time
from beamfleet_server.cli.session import Session

app = group("Choose between servers that you have logged in to.")

ContextName = Annotated[str, typer.Argument(metavar="NAME", help="A context.", autocompletion=completion.contexts)]

LOGIN_EXAMPLES = examples(
    "beamfleet login https://localhost:8443 --token-file fleet/admin.token --ca fleet/ca.pem",
    "pass show fleet | beamfleet --context berlin login https://HOST:8443 --token-file - --ca ca.pem",
)
LOGOUT_EXAMPLES = examples("beamfleet logout")


def login(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="The operators' address, https://HOST:PORT.")],
    token_file: Annotated[str, typer.Option("--token-file", metavar="FILE", help="Where the token is; - reads stdin.")],
    ca: Annotated[Path | None, typer.Option("--ca", metavar="FILE", help="The fleet CA, ca.pem of the server.")] = None,
    output: Printed = Format.TABLE,
) -> None:
    """Remember a server and your token.

    The server becomes the current context, with the certificate authority that it is checked against.

    The token is read from a file or from stdin, never from the command line, where other users could see it. Nothing
    is kept unless the server answers to both. Without --ca a known context keeps the one that it has.
    """
    session = Session.of(ctx, output)
    name = check_name(session.context_name[0] or DEFAULT_NAME)
    server = check_server(url)
    token = read_token(token_file)
    ca_file = ca or _known_ca(session, name)
    ca_pem = read_file(ca_file, "the CA")
    if b"-----BEGIN CERTIFICATE-----" not in ca_pem:
        raise CommandError(
            "server.ca_missing",
            f"there is no certificate in {ca_file}",
            "--ca FILE, the ca.pem in the server's data directory",
        )
    client = Client(server, ca_file, lambda: token)
    try:
        who = client.get("/whoami")
        info = client.get("/server")
    finally:
        client.close()
    context = session.contexts.save(name, server, token, ca_pem)
    then = "beamfleet device list" if info["metadata"]["root"] else "beamfleet init --development"
    session.output.done(
        {"context": name, "server": server, "config_dir": str(context.directory), **who},
        f"logged in to {server} as {who['name']} ({who['role']}), context {name}",
        "context",
        then,
    )


def logout(ctx: typer.Context, output: Printed = Format.TABLE) -> None:
    """Remove the token from this machine.

    Address, certificate and keys of the context stay.
    """
    session = Session.of(ctx, output)
    context = session.context
    there = session.contexts.forget_token(context.name)
    sentence = f"logged out of {context.server}" if there else f"there was no token for {context.server}"
    session.output.done({"context": context.name, "removed": there}, sentence, "context")


@app.command("list", epilog=examples("beamfleet context list"))
def list_contexts(ctx: typer.Context, output: Printed = Format.TABLE) -> None:
    """List contexts; the current one is marked."""
    session = Session.of(ctx, output)
    current = session.context_name[0]
    session.output.items(
        [_item(context, current) for context in session.contexts.all()],
        _COLUMNS,
        "name",
        "no context yet; `beamfleet login URL --token-file FILE --ca FILE` makes one",
    )


@app.command("use", epilog=examples("beamfleet context use berlin"))
def use(ctx: typer.Context, name: ContextName, output: Printed = Format.TABLE) -> None:
    """Make a context the current one."""
    session = Session.of(ctx, output)
    context = session.contexts.use(name)
    session.output.done(_item(context, name), f"context {name} is current ({context.server})", "name")


@app.command("show", epilog=examples("beamfleet context show", "beamfleet --context berlin context show -o json"))
def show(ctx: typer.Context, output: Printed = Format.TABLE) -> None:
    """Show the context that commands use now, and who you are there."""
    session = Session.of(ctx, output)
    context = session.context
    who = session.client.get("/whoami")
    item = {**_item(context, context.name), **{key: who[key] for key in ("role", "expires")}, "user": who["name"]}
    facts = [("context", context.name), ("server", context.server), ("user", f"{who['name']} ({who['role']})")]
    session.output.item(
        item, [*facts, ("expires", show_time(who["expires"])), ("ca", context.ca), ("keys", context.keys)], "name"
    )


def _item(context: Context, current: str) -> Item:
    return {
        "name": context.name,
        "server": context.server,
        "current": context.name == current,
        "ca": str(context.ca),
        "logged_in": context.token_file.exists(),
    }


def _known_ca(session: Session, name: str) -> Path:
    known = Context(name, "", session.config_dir[0]).ca
    if not known.exists():
        raise CommandError(
            "server.ca_missing",
            "no certificate authority to check the server with",
            "--ca FILE, the ca.pem in the server's data directory",
        )
    return known


_COLUMNS = (
    Column("CURRENT", lambda context: "*" if context["current"] else " "),
    Column("CONTEXT", lambda context: context["name"]),
    Column("SERVER", lambda context: context["server"]),
    Column("LOGGED IN", lambda context: context["logged_in"]),
)
