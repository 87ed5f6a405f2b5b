"""`beamfleet webhook`: where the server tells others what happens, and what became of it."""

from pathlib import Path
from typing import Annotated

import typer

from beamfleet_server.cli import completion
from beamfleet_server.cli.destinations import check_new, write_secret
from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.options import Printed, examples, group
from beamfleet_server.cli.output import Column, Format, Item, cell
from beamfleet_server.cli.quantities import parse_duration, show_time
from beamfleet_server.cli.session import Session

app = group("Tell other servers what happens, by signed webhooks.")

Number = Annotated[
    int, typer.Argument(metavar="WEBHOOK", help="Its number, as in the list.", autocompletion=completion.webhooks)
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Write the secret there (0600), not to stdout.")
]


@app.command(
    "create",
    epilog=examples(
        "beamfleet webhook create https://hooks.example/fleet",
        "beamfleet webhook create https://hooks.example/halts --kind rollout --cause halted --out halts.secret",
    ),
)
def create(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="Where to send, over https.")],
    kinds: Annotated[
        list[str] | None, typer.Option("--kind", metavar="KIND", help="Only this kind, as rollout; repeat for more.")
    ] = None,
    causes: Annotated[
        list[str] | None, typer.Option("--cause", metavar="CAUSE", help="Only this cause, as halted; repeat for more.")
    ] = None,
    out: Out = None,
    output: Printed = Format.TABLE,
) -> None:
    """Send events to a URL, from now on.

    The secret with which the receiver checks signatures is shown this once only.
    """
    session = Session.of(ctx, output)
    if out:
        check_new(out)
    made = session.client.post("/webhooks", {"url": url, "kinds": list(kinds or ()), "causes": list(causes or ())})
    _secret(session, made, out)
    if session.output.for_people:
        session.output.note(f"webhook {made['id']} gets {_wanted(made)}")
        session.output.note(f"next: beamfleet webhook test {made['id']}")


@app.command("list", epilog=examples("beamfleet webhook list", "beamfleet webhook list -o json"))
def list_webhooks(ctx: typer.Context, output: Printed = Format.TABLE) -> None:
    """List webhooks and how they stand. Secrets are never shown."""
    session = Session.of(ctx, output)
    empty = "no webhook yet; `beamfleet webhook create URL` makes one"
    session.output.items(list(session.client.pages("/webhooks")), _COLUMNS, "id", empty)


@app.command("show", epilog=examples("beamfleet webhook show 1"))
def show(ctx: typer.Context, webhook: Number, output: Printed = Format.TABLE) -> None:
    """Show one webhook: what it gets, how it stands, and since when."""
    session = Session.of(ctx, output)
    found = session.client.get(f"/webhooks/{webhook}")
    since = f" since {show_time(found['failing_since'])}: {found['error']}" if found["state"] == "failing" else ""
    why = f": {found['reason']}" if found["state"] == "disabled" else ""
    session.output.item(
        found,
        [
            ("webhook", found["id"]),
            ("to", found["url"]),
            ("gets", _wanted(found)),
            ("state", f"{found['state']}{since}{why}"),
            ("waiting", found["pending"]),
            ("failed", found["failed"]),
            ("old secret until", show_time(found["old_secret_until"])),
            ("created", f"{show_time(found['created'])} by {found['created_by']}"),
        ],
        "id",
    )


@app.command("test", epilog=examples("beamfleet webhook test 1"))
def send_test(ctx: typer.Context, webhook: Number, output: Printed = Format.TABLE) -> None:
    """Send a message of the type webhook.test now, once. Exit code 1 if the receiver does not take it."""
    session = Session.of(ctx, output)
    sent = session.client.post(f"/webhooks/{webhook}/test", {})
    if sent["state"] != "delivered":
        what = f"webhook {webhook} was not taken: {sent['error']}"
        raise CommandError("webhook.not_taken", what, "mend the receiver, or the address, and test again")
    session.output.done(sent, f"webhook {webhook} was taken: {sent['status']}", "id")


@app.command("rotate", epilog=examples("beamfleet webhook rotate 1", "beamfleet webhook rotate 1 --overlap 0s"))
def rotate(
    ctx: typer.Context,
    webhook: Number,
    overlap: Annotated[
        str, typer.Option("--overlap", metavar="TIME", help="How long the secret before is good as well: 0s, 1h, 7d.")
    ] = "1d",
    out: Out = None,
    output: Printed = Format.TABLE,
) -> None:
    """Sign with a new secret, which is shown this once only.

    For a while messages carry a signature with the secret before as well, so that the receiver can change over. With
    --overlap 0s the old one ends at once.
    """
    session = Session.of(ctx, output)
    overlap_s = 0 if overlap in ("0", "0s") else int(parse_duration(overlap))
    if out:
        check_new(out)
    made = session.client.post(f"/webhooks/{webhook}/rotate", {"overlap_s": overlap_s})
    _secret(session, made, out)
    if session.output.for_people:
        until = made["old_secret_until"]
        session.output.note(f"the secret before is good until {until}" if until else "the secret before has ended")


@app.command("enable", epilog=examples("beamfleet webhook enable 1", "beamfleet webhook enable 1 --from-now"))
def enable(
    ctx: typer.Context,
    webhook: Number,
    from_now: Annotated[
        bool, typer.Option("--from-now", help="Leave out what happened while it was disabled.")
    ] = False,
    output: Printed = Format.TABLE,
) -> None:
    """Send again, also what happened while it was disabled."""
    session = Session.of(ctx, output)
    enabled = session.client.post(f"/webhooks/{webhook}/enable", {"from_now": from_now})
    session.output.done(enabled, f"webhook {webhook} is enabled", "id")


@app.command("disable", epilog=examples("beamfleet webhook disable 1"))
def disable(ctx: typer.Context, webhook: Number, output: Printed = Format.TABLE) -> None:
    """Send nothing until it is enabled again. What happens meanwhile waits."""
    session = Session.of(ctx, output)
    disabled = session.client.post(f"/webhooks/{webhook}/disable", {})
    session.output.done(disabled, f"webhook {webhook} is disabled", "id")


@app.command("delete", epilog=examples("beamfleet webhook delete 1"))
def delete(ctx: typer.Context, webhook: Number, output: Printed = Format.TABLE) -> None:
    """End a webhook, with what waits for it and with the log of its deliveries."""
    session = Session.of(ctx, output)
    ended = session.client.delete(f"/webhooks/{webhook}")
    session.output.done(ended, f"webhook {webhook} is deleted", "ended")


@app.command(
    "deliveries", epilog=examples("beamfleet webhook deliveries 1", "beamfleet webhook deliveries 1 --failed -o json")
)
def deliveries(
    ctx: typer.Context,
    webhook: Number,
    failed: Annotated[bool, typer.Option("--failed", help="Only those that were given up.")] = False,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="How many of the newest.")] = 50,
    output: Printed = Format.TABLE,
) -> None:
    """List what was sent or is to be, newest first."""
    session = Session.of(ctx, output)
    query = {"state": "failed" if failed else ""}
    found = list(session.client.pages(f"/webhooks/{webhook}/deliveries", query, limit))
    session.output.items(found, _DELIVERIES, "id", "none")


@app.command(
    "redeliver", epilog=examples("beamfleet webhook redeliver 1 --failed", "beamfleet webhook redeliver 1 4711 4712")
)
def redeliver(
    ctx: typer.Context,
    webhook: Number,
    which: Annotated[
        list[int] | None, typer.Argument(metavar="[DELIVERY]...", help="Numbers, as in the list of deliveries.")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All that were given up.")] = False,
    output: Printed = Format.TABLE,
) -> None:
    """Send deliveries again, under the ids that they had."""
    session = Session.of(ctx, output)
    if bool(which) == failed:
        raise CommandError("usage.deliveries", "which deliveries?", "name their numbers, or say --failed")
    asked = {"deliveries": list(which) if which else None}
    again = session.client.post(f"/webhooks/{webhook}/redeliver", asked)
    session.output.done(again, f"{again['redelivered']} are sent again", "redelivered")


def _secret(session: Session, made: Item, out: Path | None) -> None:
    if out:
        write_secret(out, made["secret"])
        made = {**made, "secret": None, "file": str(out)}
    session.output.done(made, str(made["secret"] or f"secret of webhook {made['id']} is in {out}"), "id")


def _wanted(webhook: Item) -> str:
    kinds, causes = " ".join(webhook["kinds"]) or "all events", " ".join(webhook["causes"])
    return f"{kinds}: {causes}" if causes else kinds


_STYLES = {"ok": "green", "failing": "red", "delivered": "green", "failed": "red"}
_COLUMNS = (
    Column("WEBHOOK", lambda webhook: webhook["id"], right=True),
    Column("TO", lambda webhook: webhook["url"]),
    Column("GETS", _wanted),
    Column("STATE", lambda webhook: webhook["state"], lambda webhook: _STYLES.get(webhook["state"], "")),
    Column("WAITING", lambda webhook: webhook["pending"], right=True),
    Column("FAILED", lambda webhook: webhook["failed"], right=True),
    Column("ERROR", lambda webhook: webhook["reason"] or webhook["error"]),
)
_DELIVERIES = (
    Column("DELIVERY", lambda delivery: delivery["id"], right=True),
    Column("TYPE", lambda delivery: delivery["type"]),
    Column("EVENT", lambda delivery: delivery["event"], right=True),
    Column("STATE", lambda delivery: delivery["state"], lambda delivery: _STYLES.get(delivery["state"], "")),
    Column("TRIES", lambda delivery: delivery["tries"], right=True),
    Column("TIME", lambda delivery: show_time(delivery["time"])),
    Column("NEXT", lambda delivery: show_time(delivery["next_try"])),
    Column("ERROR", lambda delivery: delivery["error"] or cell(delivery["status"] or "")),
)
