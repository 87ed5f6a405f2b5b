"""`beamfleet keys evidence`: the keys that open what devices hand in. No server has them, and no server names them.

A key is a pair: FILE, which is to stay with its owner, and FILE.pub, which the people of targets sign. Where this
operator's own key of targets is enough, as after `init --development`, that is done at once; else by a plan.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.options import Printed, examples, group
from beamfleet_server.cli.output import Column, Format, Item
from beamfleet_server.cli.session import Session
from beamfleet_server.cli.signers import PassphraseFile, Secrets

if TYPE_CHECKING:
    from beamfleet_bundles.recipients import Recipient
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    from beamfleet_server.cli.ceremony import Ceremony

app = group("Make, see and retire the keys that open the evidence of devices.")

KeyFile = Annotated[
    Path | None, typer.Option("--key", metavar="FILE", help="The key that opens it. Else one of this context's.")
]
OutFolder = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="A new directory for the files. Else DEVICE-ID.")
]
MAX_SEALED = 32 << 20


@app.command(
    "create",
    epilog=examples(
        "beamfleet keys evidence create anna",
        "beamfleet keys evidence create night-shift --out stick/night-shift.key",
        "beamfleet keys evidence create ci --no-passphrase",
    ),
)
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is; everybody will see this name.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The key; FILE.pub beside it. Else with this context's keys."),
    ] = None,
    no_passphrase: Annotated[bool, typer.Option("--no-passphrase", help="Do not encrypt the file.")] = False,
    passphrase_file: PassphraseFile = None,
    output: Printed = Format.TABLE,
) -> None:
    """Make a key that opens evidence: FILE, encrypted with a passphrase, and FILE.pub, which is signed.

    Devices seal for it when they have seen the signed targets. Without the file nobody opens what was sealed for it
    alone: keep a copy in another place.
    """
    from beamfleet_bundles import recipients

    from beamfleet_server.cli.contexts import make_private

    session = Session.of(ctx, output)
    folder = session.context.keys
    path = out or folder / f"evidence-{name}.key"
    public = path.with_name(f"{path.name}.pub")
    for existing in (path, public):
        if existing.exists():
            raise CommandError("keys.exists", f"{existing} exists", "a key is never overwritten; name another file")
    ceremony = _ceremony(session)
    draft = ceremony.draft()
    before = recipients.read(draft.targets)
    changed(before, [recipients.Recipient(name=name, public="0" * 64)], ())
    passphrase = "" if no_passphrase else Secrets(passphrase_file).ask_twice(f"passphrase of {path}")
    if not passphrase and not no_passphrase:
        raise CommandError("passphrase.missing", "the passphrase is empty", "--no-passphrase makes a key without one")
    if out is None:
        make_private(folder)
    made = recipients.generate(path, name, passphrase)
    recipients.write_public(public, made)
    draft.open_to(changed(before, [made], ()))
    signed = ceremony.carry_out(draft.plan(f"the key {name} for evidence", ceremony.server))
    session.output.done(
        {"name": name, "key": made.id, "file": str(path), "public": str(public), "signed": signed},
        f"{path} opens evidence as {name} ({made.id[:8]})"
        + (": devices seal for it when they next look" if signed else f"; {public} is to be signed"),
        "key",
        "beamfleet device diagnose DEVICE" if signed else f"beamfleet keys plan evidence --add {public} --out PLAN",
    )


@app.command("list", epilog=examples("beamfleet keys evidence list", "beamfleet keys evidence list -o json"))
def list_keys(ctx: typer.Context, output: Printed = Format.TABLE) -> None:
    """List whom devices seal evidence for, as the signed targets say, and which of these keys are here."""
    session = Session.of(ctx, output)
    here = {each.id: str(path) for path, each in _here(session)}
    rows = [{"name": each.name, "key": each.id, "file": here.get(each.id, "")} for each in _signed(_ceremony(session))]
    empty = "nobody can open evidence, so devices hand in none: beamfleet keys evidence create NAME"
    session.output.items(rows, _COLUMNS, "key", empty)


@app.command("retire", epilog=examples("beamfleet keys evidence retire ben"))
def retire(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is, or the beginning of its id.")],
    output: Printed = Format.TABLE,
) -> None:
    """Let devices seal for a key no more. What it could open before it still opens; its file stays."""
    from beamfleet_bundles import recipients

    session = Session.of(ctx, output)
    ceremony = _ceremony(session)
    draft = ceremony.draft()
    left = changed(recipients.read(draft.targets), [], [name])
    draft.open_to(left)
    if not ceremony.carry_out(draft.plan(f"the end of the key {name} for evidence", ceremony.server)):
        raise CommandError(
            "keys.several",
            f"targets is signed by several people on {ceremony.server}, or its key is not here",
            f"beamfleet keys plan evidence --remove {name} --out PLAN",
        )
    item = {"retired": name, "left": [each.name for each in left]}
    session.output.done(item, f"devices seal for {name} no more when they have looked at the metadata", "retired")


@app.command("open", epilog=examples("beamfleet keys evidence open gw-1-0123456789abcdef.sealed --out gw-1"))
def open_sealed(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `device diagnose --sealed` has kept.")],
    key: KeyFile = None,
    out: OutFolder = None,
    passphrase_file: PassphraseFile = None,
    output: Printed = Format.TABLE,
) -> None:
    """Open sealed evidence into a new directory. No server is asked."""
    session = Session.of(ctx, output)
    try:
        with file.open("rb") as opened:
            sealed = opened.read(MAX_SEALED)
    except OSError as error:
        raise CommandError("file.unreadable", f"cannot read {file}: {error.strerror}", "check the path") from error
    show(session, unsealed(session, sealed, load_key(key, passphrase_file) if key else None, passphrase_file, out))


def load_key(path: Path, passphrase_file: Path | None) -> "X25519PrivateKey":
    """A key that opens evidence; errors `trust.key_*`, `passphrase.missing`."""
    from beamfleet_bundles import recipients

    secrets = Secrets(passphrase_file)
    return recipients.load(path, lambda what: secrets.ask(f"{what} of {path}"))


def unsealed(
    session: Session,
    sealed: bytes,
    private: "X25519PrivateKey | None",
    passphrase_file: Path | None,
    out: Path | None,
    of: tuple[str, str] | None = None,
) -> Item:
    """Open evidence into a directory; what it was. Without a key, by one of this context's. `of`: the device and the
    id that it must be of.

    Errors `evidence.key_missing`, `sealing.*`, `evidence.archive`.
    """
    from beamfleet_bundles import sealing

    from beamfleet_server.cli.unpacking import unpack

    header = sealing.read_header(sealed)
    private = private or load_key(_fitting(session, [each.key for each in header.keys]), passphrase_file)
    header, archive = sealing.unseal(sealed, private)
    if of not in (None, (header.device, header.id)):
        raise CommandError("evidence.archive", f"this is the evidence {header.id} of {header.device}", "ask again")
    folder = out or Path(f"{header.device}-{header.id}")
    return {"id": header.id, "device": header.device, "folder": str(folder), "files": unpack(archive, folder)}


def show(session: Session, item: Item) -> None:
    """Say where evidence was unpacked."""
    sentence = f"{item['device']}: evidence is in {item['folder']}: {', '.join(item['files'])}"
    session.output.done(item, sentence, "id")
    if session.output.for_people:
        session.output.note("it holds what the release had in its memory, secrets too: delete it when it has served")


def changed(before: Sequence["Recipient"], add: Iterable["Recipient"], remove: Iterable[str]) -> list["Recipient"]:
    """Who may open evidence afterwards; `keys.exists` for a name that is taken, `plan.key` for one that is none."""
    left = list(before)
    for word in remove:
        fitting = [each for each in left if each.name == word or (len(word) >= 8 and each.id.startswith(word))]
        if len(fitting) != 1:
            known = ", ".join(each.name for each in before) or "nobody"
            raise CommandError("plan.key", f"{word} is no key for evidence: there are {known}", "its name, or its id")
        left.remove(fitting[0])
    for each in add:
        if any(each.name == other.name for other in left):
            raise CommandError("keys.exists", f"there is a key {each.name} for evidence already", "name it otherwise")
        left.append(each)
    return left


def _signed(ceremony: "Ceremony") -> Sequence["Recipient"]:
    from beamfleet_bundles import recipients

    top = ceremony.held().top
    return recipients.read(top) if top else ()


def _here(session: Session) -> "list[tuple[Path, Recipient]]":
    """The keys for evidence among this context's, by their public halves."""
    from beamfleet_bundles import recipients
    from beamfleet_bundles.errors import BundleError

    found = []
    for public in sorted(session.context.keys.glob("evidence-*.key.pub")):
        path = public.with_name(public.name.removesuffix(".pub"))
        try:
            if path.exists():
                found.append((path, recipients.read_public(public)))
        except BundleError:
            continue
    return found


def _fitting(session: Session, wanted: Sequence[str]) -> Path:
    for path, each in _here(session):
        if each.id in wanted:
            return path
    raise CommandError(
        "evidence.key_missing",
        f"it is sealed for the keys {', '.join(each[:8] for each in wanted)}; none of them is among this context's",
        "--key FILE, or send the sealed file to whoever has one",
    )


def _ceremony(session: Session) -> "Ceremony":
    from beamfleet_server.cli.ceremony import Ceremony

    return Ceremony(session.client, session.context.keys)


_COLUMNS = (
    Column("NAME", lambda row: row["name"]),
    Column("KEY", lambda row: row["key"]),
    Column("FILE", lambda row: row["file"] or "not here"),
)
