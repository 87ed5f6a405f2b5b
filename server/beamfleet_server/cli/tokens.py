"""`beamfleet token`: one-time tokens with which a device enrols."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.names import check_device

from beamfleet_server.cli.client import Client, Json
from beamfleet_server.cli.destinations import check_new, write_secret
from beamfleet_server.cli.errors import CommandError, RemoteError
from beamfleet_server.cli.labels import parse_labels, show_labels
from beamfleet_server.cli.options import Labels, Printed, examples, group
from beamfleet_server.cli.output import Column, Format
from beamfleet_server.cli.quantities import parse_life, show_time
from beamfleet_server.cli.session import Session

app = group("Make the tokens with which devices enrol.")
MOST_USES = 100_000

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
        "beamfleet token create --any -l site=berlin --expires 15m",
        "beamfleet token create --batch 200 --prefix line-4- --expires 7d --out line-4.token",
    ),
)
def create(
    ctx: typer.Context,
    device: Annotated[
        str | None, typer.Argument(metavar="[DEVICE]", help="The id that the token gives; or --any, or --batch.")
    ] = None,
    any_id: Annotated[bool, typer.Option("--any", help="For one new device, whatever its id.")] = False,
    batch: Annotated[
        int | None, typer.Option("--batch", metavar="N", help="For N new devices, each with an id of its own.")
    ] = None,
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="TEXT", help="With --any or --batch: how their ids begin.")
    ] = "",
    labels: Labels = None,
    expires: Expires = "1h",
    replace: Replace = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the token there (0600), not to stdout.")
    ] = None,
    output: Printed = Format.TABLE,
) -> None:
    """Make a token that enrols one device, once; or some new ones.

    Without --out the token is printed; it is shown this once only. A token for many never replaces a device that is
    enrolled already.
    """
    session = Session.of(ctx, output)
    if (device is not None) + any_id + (batch is not None) != 1:
        raise CommandError("usage.token", "for whom is the token?", "one of: DEVICE, --any, --batch N")
    if device is not None and prefix:
        raise CommandError("usage.token", "--prefix goes with --any or --batch", "leave it away, or name no device")
    if device is None and replace:
        raise CommandError("usage.token", "--replace goes with DEVICE", "a token for many never replaces a device")
    if batch is not None and not 1 <= batch <= MOST_USES:
        raise CommandError("usage.token", f"--batch is 1 to {MOST_USES}, not {batch}", "how many devices may use it")
    if prefix:
        _check_prefix(prefix)
    given, life_s = parse_labels(labels or ()), parse_life(expires)
    if out:
        check_new(out)
    if device is not None:
        made = create_token(session.client, device, given, life_s, replace)
    else:
        wish = {"count": 1 if batch is None else batch, "prefix": prefix, "labels": given, "expires_in_s": life_s}
        made = session.client.post("/tokens", wish)
    whom = device or f"{made['count']} new device{'' if made['count'] == 1 else 's'}"
    if out:
        write_secret(out, made["token"])
        made = {**made, "token": None, "file": str(out)}
    session.output.done(made, str(made["token"] or f"token for {whom} is in {out}"), "id", "")
    if session.output.for_people:
        session.output.note(f"good for one enrolment of {whom} until {show_time(made['expires'])}")


@app.command("list", epilog=examples("beamfleet token list", "beamfleet token list -o json"))
def list_tokens(ctx: typer.Context, output: Printed = Format.TABLE) -> None:
    """List tokens, newest first: for whom, how many uses are left, by whom they were made.

    What has expired is shown for a month. The tokens themselves are not kept anywhere.
    """
    session = Session.of(ctx, output)
    empty = "no token yet; `beamfleet token create DEVICE` makes one"
    session.output.items(list(session.client.pages("/tokens")), _COLUMNS, "id", empty)


@app.command("revoke", epilog=examples("beamfleet token revoke 12"))
def revoke(
    ctx: typer.Context,
    token: Annotated[int, typer.Argument(metavar="NUMBER", help="The token's number, as in the list.")],
    output: Printed = Format.TABLE,
) -> None:
    """End a token. The devices that have used it stay."""
    session = Session.of(ctx, output)
    ended = session.client.delete(f"/tokens/{token}")
    session.output.done(ended, f"token {token} is good for nothing any more", "ended")


def create_token(client: Client, device: str, labels: Mapping[str, str], expires_in_s: int, replace: bool) -> Json:
    """The API's answer {id, token, device, expires, ...}."""
    asked = {"device": device, "labels": dict(labels), "expires_in_s": expires_in_s, "replace": replace}
    try:
        return client.post("/tokens", asked)
    except RemoteError as error:
        if error.code != "device.exists":
            raise
        hint = "choose another id, or --replace to end the identity that it has"
        raise RemoteError(error.code, error.message, hint, error.status) from error


def _check_prefix(prefix: str) -> None:
    try:
        check_device(prefix)
    except BundleError as error:
        what = f"--prefix {prefix[:80]!r} is not how an id of a device can begin"
        raise CommandError("usage.token", what, error.hint) from None


_COLUMNS = (
    Column("TOKEN", lambda token: token["id"], right=True),
    Column("FOR", lambda token: token["device"] or f"{token['prefix']}*"),
    Column("STATE", lambda token: token["state"], lambda token: {"open": "green"}.get(token["state"], "")),
    Column("LEFT", lambda token: f"{token['left']} of {token['count']}", right=True),
    Column("LABELS", lambda token: show_labels(token["labels"])),
    Column("MADE BY", lambda token: token["created_by"]),
    Column("EXPIRES", lambda token: show_time(token["expires"])),
    Column("USED", lambda token: show_time(token["used"])),
)
