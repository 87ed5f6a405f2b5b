"""`beamfleet token`: one-time tokens with which a device enrols."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from beamfleet_bundles import durable

from beamfleet_server.cli.client import Client, Json
from beamfleet_server.cli.errors import RemoteError
from beamfleet_server.cli.labels import parse_labels
from beamfleet_server.cli.options import Labels, Printed, examples, group
from beamfleet_server.cli.output import Format
from beamfleet_server.cli.quantities import parse_duration
from beamfleet_server.cli.session import Session

app = group("Make the one-time tokens with which devices enrol.")

Expires = Annotated[
    str, typer.Option("--expires", metavar="TIME", help="How long the token may be used: 90s, 15m, 1h, 7d.")
]

Replace = Annotated[
    bool, typer.Option("--replace", help="Also for an enrolled device; its certificates end when the token is used.")
]


@app.command(
    "create",
    epilog=examples(
        "beamfleet token create gw-1 -l site=berlin --out gw-1.token",
        "beamfleet token create gw-1 --expires 7d -o json",
    ),
)
def create(
    ctx: typer.Context,
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="The id that the token gives.")],
    labels: Labels = None,
    expires: Expires = "1h",
    replace: Replace = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the token there (0600), not to stdout.")
    ] = None,
    output: Printed = Format.TABLE,
) -> None:
    """Make a token that enrols one device, once.

    Without --out the token is printed; it is shown this once only.
    """
    session = Session.of(ctx, output)
    made = create_token(session.client, device, parse_labels(labels or ()), parse_duration(expires), replace)
    if out:
        durable.replace(out, made["token"].encode() + b"\n", 0o600)
        made = {**made, "token": None, "file": str(out)}
    session.output.done(made, str(made["token"] or f"token for {device} is in {out}"), "device", "")
    if session.output.for_people:
        session.output.note(f"good for one enrolment of {device} until {made['expires']}")


def create_token(client: Client, device: str, labels: Mapping[str, str], expires_in_s: int, replace: bool) -> Json:
    """The API's answer {token, device, expires}."""
    asked = {"device": device, "labels": dict(labels), "expires_in_s": expires_in_s, "replace": replace}
    try:
        return client.post("/tokens", asked)
    except RemoteError as error:
        if error.code != "device.exists":
            raise
        hint = "choose another id, or --replace to end the identity that it has"
        raise RemoteError(error.code, error.message, hint, error.status) from error
