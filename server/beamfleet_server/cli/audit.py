"""`beamfleet audit`: who did what. The chain is checked here, with nothing of the server's word but the entries.

What was verified is remembered beside the context (`audit.json`: some numbers with their hashes), so that a server
whose table was made anew, consistently, is still found out by everybody who has looked before.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from beamfleet_bundles import durable

from beamfleet_server.audit import Entry, Verdict, check
from beamfleet_server.cli.client import Client
from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.options import Printed, examples, group
from beamfleet_server.cli.output import Column, Format
from beamfleet_server.cli.quantities import show_time
from beamfleet_server.cli.session import Session

app = group("See who did what, and that nobody has changed that record.")

PAGE = 1000
REMEMBERED = 50
"""Numbers whose hashes are kept; the newest ones."""


@app.command("list", epilog=examples("beamfleet audit list", "beamfleet audit list --limit 500 -o json"))
def list_entries(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1000, help="How many of the newest.")] = 50,
    output: Printed = Format.TABLE,
) -> None:
    """List what was done and what was refused, the newest last."""
    session = Session.of(ctx, output)
    entries = session.client.get("/audit", {"newest": "true", "limit": limit})["items"]
    session.output.items(entries, _COLUMNS, "id", "nothing has been done yet")


@app.command("verify", epilog=examples("beamfleet audit verify", "beamfleet audit verify audit.jsonl -o json"))
def verify(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="An export; without one, what the server has now.")
    ] = None,
    output: Printed = Format.TABLE,
) -> None:
    """Check that no entry was altered, removed or reordered, since the first one and since you last looked.

    Exit code 1 and `audit.broken` name the first entry that does not hold.
    """
    session = Session.of(ctx, output)
    memory = None if file else session.context.ca.parent / "audit.json"
    known = _remembered(memory) if memory else {}
    if file:
        try:
            with file.open("rb") as lines:
                verdict = check(_exported(lines))
        except OSError as error:
            what = f"cannot read {file}: {error.strerror}"
            raise CommandError("file.unreadable", what, "check the path, and who may read it") from error
    else:
        verdict = check(map(_entry, _entries(session.client)), known=known)
    if verdict.finding:
        hint = "compare with an older export: what is on the server was changed outside of it"
        raise CommandError("audit.broken", verdict.finding, hint)
    if memory and verdict.last:
        newest = sorted({**known, verdict.last: verdict.hash}.items())[-REMEMBERED:]
        durable.replace(memory, json.dumps({str(number): text for number, text in newest}).encode() + b"\n", 0o600)
    session.output.done(_told(verdict), f"{verdict.entries} entries hold, up to {verdict.last}", "last")


@app.command("export", epilog=examples("beamfleet audit export audit.jsonl", "beamfleet audit export - | gzip > a.gz"))
def export(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to; - is stdout.")],
    output: Printed = Format.TABLE,
) -> None:
    """Write all entries as JSON lines, in ASCII, in their order. `audit verify FILE` checks them again."""
    session = Session.of(ctx, output)
    count = 0
    if file == "-":
        for line in _lines(session.client):
            session.output.stdout.write(line)
        return
    with Path(file).open("x", encoding="ascii") as out:
        for line in _lines(session.client):
            out.write(line)
            count += 1
    session.output.done({"entries": count, "file": file}, f"{count} entries are in {file}", "file")


def _lines(client: Client) -> Iterator[str]:
    return (json.dumps(entry, sort_keys=True) + "\n" for entry in _entries(client))


def _entries(client: Client) -> Iterator[dict[str, Any]]:
    after = 0
    while True:
        page = client.get("/audit", {"after": after, "limit": PAGE})
        yield from page["items"]
        if page["next"] is None:
            return
        after = int(page["next"])


def _entry(item: dict[str, Any]) -> Entry:
    try:
        return Entry.read(item)
    except ValueError as error:
        raise CommandError(
            "server.malformed", f"the server's audit is none: {error}", "is it of this version?"
        ) from None


def _exported(lines: IO[bytes]) -> Iterator[Entry]:
    for number, line in enumerate(lines, 1):
        try:
            yield Entry.read(json.loads(line))
        except ValueError:
            what = f"line {number} is not an entry of an export"
            raise CommandError("audit.malformed", what, "beamfleet audit export FILE writes one") from None


def _remembered(memory: Path) -> dict[int, str]:
    try:
        return {int(number): str(text) for number, text in json.loads(memory.read_bytes()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError):
        raise CommandError("config.malformed", f"{memory} is not what was written there", "look at it") from None


def _told(verdict: Verdict) -> dict[str, Any]:
    return {"entries": verdict.entries, "last": verdict.last, "hash": verdict.hash}


def _when(entry: Any) -> str:
    return show_time(datetime.fromtimestamp(entry["time"], UTC).isoformat())


_COLUMNS = (
    Column("NUMBER", lambda entry: entry["id"], right=True),
    Column("TIME", _when),
    Column("WHO", lambda entry: entry["actor"]),
    Column("FROM", lambda entry: entry["address"]),
    Column("ACTION", lambda entry: entry["action"]),
    Column("TARGET", lambda entry: entry["target"]),
    Column("OUTCOME", lambda entry: entry["outcome"], lambda entry: "" if entry["outcome"] == "ok" else "red"),
    Column("DETAIL", lambda entry: entry["detail"]),
)
