"""`beamfleet product`: the things that are released, each with a signing key of its own."""

from typing import Annotated

import typer

from beamfleet_server.cli.options import Printed, examples, group
from beamfleet_server.cli.output import Column, Format
from beamfleet_server.cli.quantities import show_time
from beamfleet_server.cli.session import Session

app = group("Name what you release.")


@app.command("create", epilog=examples("beamfleet product create sensor-gateway"))
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Small letters, digits and dashes.")],
    output: Printed = Format.TABLE,
) -> None:
    """Create a product: make its key here, sign who may release it, and tell the server.

    The key stays in the configuration directory (keys/CONTEXT/product-NAME.key); the server never sees it. Safe to
    repeat.
    """
    from beamfleet_server.cli.signing import Signing

    session = Session.of(ctx, output)
    signing = Signing(session.client, session.context.keys)
    made = signing.create_product(name)
    key = signing.keyring.path(name)
    session.output.done(
        {"name": name, "created": made, "key": str(key)},
        f"product {name} {'created' if made else 'is there already'}; its key is {key}",
        "name",
        "beamfleet push TARBALL -l key=value",
    )


@app.command("list", epilog=examples("beamfleet product list", "beamfleet product list -o name"))
def list_products(ctx: typer.Context, output: Printed = Format.TABLE) -> None:
    """List products."""
    session = Session.of(ctx, output)
    products = list(session.client.pages("/products"))
    session.output.items(products, _COLUMNS, "name", "no product yet; `beamfleet product create NAME` makes the first")


_COLUMNS = (
    Column("PRODUCT", lambda product: product["name"]),
    Column("METADATA", lambda product: product.get("version"), right=True),
    Column("CREATED", lambda product: show_time(product.get("created"))),
)
