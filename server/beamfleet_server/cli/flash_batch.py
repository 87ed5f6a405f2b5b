"""`beamfleet flash --batch`: every device of a CSV manifest, a durable report, and a sheet of labels.

Each line is one `flash_one` with the options of the command and what the line says. All lines are checked first; what
the report says is done is left out.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from beamfleet_bundles.errors import BeamfleetError

from beamfleet_server.cli.errors import ERROR, CommandError
from beamfleet_server.cli.flash_manifest import Job, jobs_of
from beamfleet_server.cli.flash_options import FlashOptions
from beamfleet_server.cli.labels import parse_labels
from beamfleet_server.cli.output import Column, Item
from beamfleet_server.cli.session import Session

if TYPE_CHECKING:
    from beamfleet_server.flash.batch_report import Record, Report
    from beamfleet_server.flash.label_sheet import Label

MOST_JOBS = 64
SIDE_BY_SIDE = ("root", "ssh")
"""Targets of which several may be flashed at a time."""


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What was typed."""

    batch: Annotated[
        Path | None, typer.Option("--batch", metavar="CSV", help="Flash every device of this manifest; see FLASH.md.")
    ] = None
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="CSV", help="With --batch: what came of it; else CSV.report.csv beside it."),
    ] = None
    jobs: Annotated[
        int,
        typer.Option("--jobs", metavar="N", min=1, max=MOST_JOBS, help="With --batch: so many --root, --ssh at once."),
    ] = 1
    pre_made: Annotated[
        Path | None,
        typer.Option(
            "--pre-made", metavar="DIR", help="With --batch: identities of `device provision`, DIR/SERIAL or DIR/ID."
        ),
    ] = None
    label_sheet: Annotated[
        Path | None,
        typer.Option("--label-sheet", metavar="HTML", help="A page to print: a label with a QR code for each device."),
    ] = None

    label_tokens: Annotated[
        bool,
        typer.Option(
            "--label-tokens", help="With --batch: also print one-time tokens. Who sees such a label can be the device."
        ),
    ] = False

    def check(self) -> None:
        """Refuse what goes with --batch only, and a place where there can be no page. Errors `usage.batch`,
        `usage.file`, `file.failed`."""
        if self.batch is None and (self.report or self.pre_made or self.jobs > 1 or self.label_tokens):
            what = "--report, --jobs, --pre-made and --label-tokens go with --batch"
            raise CommandError("usage.batch", what, "add --batch CSV")
        if self.label_tokens and self.label_sheet is None:
            raise CommandError("usage.batch", "there is no sheet for the tokens", "add --label-sheet HTML")
        if self.label_sheet is not None:
            _check_page(self.label_sheet, {"manifest": self.batch, "report": self.report_file})

    @property
    def report_file(self) -> Path | None:
        """Where the report is; None without a manifest."""
        return self.report or (self.batch.with_name(f"{self.batch.name}.report.csv") if self.batch else None)


def run(session: Session, options: FlashOptions, batch: BatchOptions) -> None:
    """Flash what the manifest names and the report does not have; prints what came of it, and ends with exit code 1
    unless all went well. Errors `usage.*`, `flash.batch`, `flash.report`, `flash.report_busy`."""
    from beamfleet_server.cli.signing import Signing
    from beamfleet_server.flash import batch_report

    manifest, path = batch.batch, batch.report_file
    if manifest is None or path is None:
        raise CommandError("usage.batch", "there is no manifest", "add --batch CSV")
    jobs = jobs_of(manifest, options, batch.pre_made)
    if options.dry_run:
        _show_plans(session, jobs)
        return
    _ask(session, options, jobs, manifest)
    Signing(session.client, session.context.keys).root()  # what is trusted is settled before many ask at once
    tokens: dict[int, str] | None = {} if batch.label_tokens else None
    with batch_report.opened(path) as report:
        records = _flash(session, jobs, report, batch.jobs, tokens)
        if batch.label_sheet:
            print_labels(session, batch.label_sheet, _labels(jobs, report, tokens or {}))
    failed = [record for record in records if record.state != batch_report.DONE]
    session.output.items([asdict(record) for record in records], _COLUMNS, "id", "")
    if failed:
        what = f"{len(failed)} of {len(records)} are not flashed: {path}"
        session.output.note(f"{what}; run the same again, what is done is left out")
        raise typer.Exit(ERROR)


def _ask(session: Session, options: FlashOptions, jobs: Sequence[Job], manifest: Path) -> None:
    if options.yes or options.single_user or all(job.kind == "deb" for job in jobs):
        return
    if not session.output.stderr.isatty() or not session.output.for_people:
        hint = "add --yes; --dry-run shows what will be done"
        raise CommandError("usage.not_asked", f"this will change {len(jobs)} targets, and nobody was asked", hint)
    for job in jobs[:MOST_JOBS]:
        session.output.note(f"{job.options.id}: {job.line.target}")
    if not typer.confirm(f"flash the {len(jobs)} devices of {manifest}?", err=True):
        raise typer.Abort


# --- doing it


def _flash(
    session: Session, jobs: Sequence[Job], report: "Report", at_once: int, tokens: dict[int, str] | None
) -> "list[Record]":
    """What is known of every line in the end, in their order. tokens: takes those that were made, by line; None: nobody
    asked for them."""
    known = {job.line.number: record for job in jobs if (record := report.done(job.line, job.options.id))}
    waiting = [job for job in jobs if job.line.number not in known]
    alone = threading.Lock()
    hand = threading.local()
    sessions: list[Session] = []

    def work(job: Job) -> "Record":
        if not hasattr(hand, "session"):
            hand.session = session.another()
            sessions.append(hand.session)
        if job.kind in SIDE_BY_SIDE:
            return _one(hand.session, job, report, tokens)
        with alone:
            return _one(hand.session, job, report, tokens)

    if known:
        session.output.note(f"{len(known)} of {len(jobs)} are done already")
    pool = ThreadPoolExecutor(at_once, "flash")
    try:
        running: dict[Future[Record], Job] = {pool.submit(work, job): job for job in waiting}
        for number, done in enumerate(as_completed(running), 1):
            record = done.result()
            known[record.line] = record
            told = record.state if not record.code else f"{record.state}: {record.message} ({record.code})"
            session.output.note(f"[{number}/{len(waiting)}] {record.id}: {told}")
    finally:
        pool.shutdown(cancel_futures=True)
        for each in sessions:
            each.close()
    return [known[job.line.number] for job in jobs]


def _one(session: Session, job: Job, report: "Report", tokens: dict[int, str] | None) -> "Record":
    """Flash one device, and keep what came of it."""
    from beamfleet_server.cli.flash import flash_one
    from beamfleet_server.flash.batch_report import DONE, FAILED, Record
    from beamfleet_server.flash.errors import UnfitError

    state, code, message, fingerprint = DONE, "", "", job.fingerprint
    made: list[str] = []
    try:
        fingerprint = str(flash_one(session, job.options, told=made.append)["fingerprint"])
        if tokens is not None and made:
            tokens[job.line.number] = made[0]
    except UnfitError as error:
        state, code = FAILED, error.code
        message = "; ".join([error.message, *(f"{other.message} ({other.code})" for other in error.others)])
    except BeamfleetError as error:
        state, code, message = FAILED, error.code, error.message
    except OSError as error:
        state, code, message = FAILED, "file.failed", f"{error.filename or 'a file'}: {error.strerror or error}"
    line = job.line
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    who = (now, line.number, job.options.id, line.serial, line.target)
    record = Record(*who, state, code, message, fingerprint, line.digest)
    report.append(record)
    return record


def _show_plans(session: Session, jobs: Sequence[Job]) -> None:
    """What would be done with each; an unfit target is shown with what stands against it."""
    from beamfleet_server.cli.flash import flash_one

    plans: list[Item] = []
    for job in jobs:
        shown: dict[str, Any] = {"line": job.line.number, "device": job.options.id, "target": job.line.target}
        try:
            shown |= {"steps": flash_one(session, job.options)["plan"].document()["steps"], "problem": ""}
        except BeamfleetError as error:
            shown |= {"steps": [], "problem": f"{error.message} ({error.code})"}
        plans.append(shown)
    session.output.items(plans, _PLANS, "device", "")
    session.output.note("nothing was changed")
    if any(plan["problem"] for plan in plans):
        raise typer.Exit(ERROR)


# --- labels


def _check_page(path: Path, others: Mapping[str, Path | None]) -> None:
    """Refuse, before anything is done to a device, a place where no page can be laid, or where something else lies."""
    from beamfleet_server.flash.label_sheet import is_sheet

    hint = "give another file to --label-sheet"
    for what, other in others.items():
        if other is not None and path.resolve() == other.resolve():
            raise CommandError("usage.file", f"{path} is the {what}, and cannot be the page of labels as well", hint)
    try:
        if path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
            why = "it is a directory" if path.is_dir() else "its directory is not there, or cannot be written to"
            raise CommandError("file.failed", f"cannot write the labels to {path}: {why}", hint)
        if path.exists() and not (path.is_file() and is_sheet(_beginning(path))):
            raise CommandError("usage.file", f"{path} is there already, and is no page of labels", hint)
    except OSError as error:
        raise CommandError("file.failed", f"cannot write the labels to {path}: {error.strerror}", hint) from None


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def print_label(session: Session, path: Path, flashed: Item, options: FlashOptions) -> None:
    """The page for one device; `flashed` is what `flash_one` says of it."""
    from beamfleet_server.flash.label_sheet import Label

    label = Label(flashed["device"], "", flashed["fingerprint"], parse_labels(options.labels or ()))
    print_labels(session, path, [label])


def print_labels(session: Session, path: Path, labels: "Sequence[Label]") -> None:
    """Write the page, for nobody else to read if there is a token on it."""
    from beamfleet_bundles import durable, pki
    from cryptography.hazmat.primitives.serialization import Encoding

    from beamfleet_server.flash.label_sheet import fleet_of, sheet

    active = pki.load_certificate(session.client.get("/server")["fleet_ca"].encode())
    page = sheet(labels, fleet_of(active.public_bytes(Encoding.DER)))
    secret = any(label.token for label in labels)
    durable.replace(path, page.encode(), 0o600 if secret else 0o644)
    session.output.note(f"{path} has {len(labels)} label{'' if len(labels) == 1 else 's'}")


def _labels(jobs: Sequence[Job], report: "Report", tokens: Mapping[int, str]) -> "list[Label]":
    """One for every device that is done, in this run or before; tokens are those of this run."""
    from beamfleet_server.flash.label_sheet import Label

    done = [(job, record) for job in jobs if (record := report.done(job.line, job.options.id))]
    return [
        Label(record.id, record.serial, record.fingerprint, job.line.labels, tokens.get(job.line.number, ""))
        for job, record in done
    ]


_COLUMNS = (
    Column("LINE", lambda record: record["line"], right=True),
    Column("DEVICE", lambda record: record["id"]),
    Column("SERIAL", lambda record: record["serial"]),
    Column("TARGET", lambda record: record["target"]),
    Column("STATE", lambda record: record["state"], lambda record: "green" if record["state"] == "done" else "red"),
    Column("WHY", lambda record: f"{record['message']} ({record['code']})" if record["code"] else ""),
)
_PLANS = (
    Column("LINE", lambda plan: plan["line"], right=True),
    Column("DEVICE", lambda plan: plan["device"]),
    Column("TARGET", lambda plan: plan["target"]),
    Column("STEPS", lambda plan: "; ".join(plan["steps"])),
    Column("PROBLEM", lambda plan: plan["problem"], lambda _: "red"),
)
