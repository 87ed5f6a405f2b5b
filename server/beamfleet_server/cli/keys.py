"""`beamfleet keys`: the keys that no server has, and the ceremony with which people use them.

`create`, `show` and `sign` need no server and no network: they are for the machine where the keys are.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from beamfleet_server.cli import evidence_keys, planning
from beamfleet_server.cli.consent import agreed
from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.options import Printed, examples, group
from beamfleet_server.cli.output import Column, Format, Item
from beamfleet_server.cli.quantities import show_duration
from beamfleet_server.cli.session import Session
from beamfleet_server.cli.signers import KeyFiles, PassphraseFile, Secrets, Signers, SignersFile, open_signers

if TYPE_CHECKING:
    from beamfleet_server.cli.plans import Plan

app = group("Make, use and change the keys that no server has.")
app.add_typer(planning.app, name="plan")
app.add_typer(evidence_keys.app, name="evidence")

PlanFiles = Annotated[list[Path], typer.Argument(metavar="PLAN...", help="A plan, or copies that were signed apart.")]


@app.command(
    "create",
    epilog=examples(
        "beamfleet keys create anna --out stick/anna.key",
        "beamfleet keys create ci --out ci.key --no-passphrase",
    ),
)
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is; everybody will see this name.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The key; FILE.pub beside it. Else NAME.key.")
    ] = None,
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="Do not encrypt the file: for a machine that signs by itself.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    output: Printed = Format.TABLE,
) -> None:
    """Make a key: FILE, encrypted with a passphrase, and FILE.pub for everybody.

    The file is all there is: keep a copy in another place, and the passphrase in a third. An existing file is never
    overwritten.
    """
    from beamfleet_bundles import keys

    session = Session.of(ctx, output)
    path = out or Path(f"{name}.key")
    public = path.with_name(f"{path.name}.pub")
    for existing in (path, public):
        if existing.exists():
            raise CommandError("keys.exists", f"{existing} exists", "a key is never overwritten; name another file")
    keys.check_name(name)
    passphrase = "" if no_passphrase else Secrets(passphrase_file).ask_twice(f"passphrase of {path}")
    if not passphrase and not no_passphrase:
        raise CommandError("passphrase.missing", "the passphrase is empty", "--no-passphrase makes a key without one")
    key = keys.named(keys.generate(path, passphrase).public_key, name)
    keys.write_public(public, key)
    session.output.done(
        {"name": name, "keyid": key.keyid, "key": str(path), "public": str(public), "encrypted": bool(passphrase)},
        f"{path} is the key of {name} ({key.keyid[:8]}); {public} is for everybody",
        "keyid",
        f"give {public} to whoever makes the plan",
    )


@app.command("import", epilog=examples("beamfleet keys import anna token.pem --out anna.pub"))
def import_public(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is; everybody will see this name.")],
    file: Annotated[Path, typer.Argument(metavar="FILE.pem", help="Its public half, from the token or service.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.pub", help="Where the public half goes. Else NAME.pub.")
    ] = None,
    output: Printed = Format.TABLE,
) -> None:
    """Take the public half of a key that was made elsewhere: Ed25519 or ECDSA P-256, PEM."""
    from beamfleet_bundles import keys

    session = Session.of(ctx, output)
    path = out or Path(f"{name}.pub")
    if path.exists():
        raise CommandError("keys.exists", f"{path} exists", "name another file")
    key = keys.named(keys.read_public(file), name)
    keys.write_public(path, key)
    session.output.done(
        {"name": name, "keyid": key.keyid, "public": str(path), "scheme": key.scheme},
        f"{path} is the public half of {name} ({key.keyid[:8]}, {key.scheme})",
        "keyid",
        f"name it in signers.toml: [{name}], uri = ..., public = {path.name}",
    )


@app.command(
    "show", epilog=examples("beamfleet keys show stick/plan.json", "beamfleet keys show a.json b.json -o json")
)
def show(ctx: typer.Context, plans: PlanFiles, output: Printed = Format.TABLE) -> None:
    """Say in words what a plan would change, who has signed it and who is missing. No server is asked."""
    session = Session.of(ctx, output)
    plan = _merged(plans)
    planning.show(session, plan, str(plans[0]), f"{plans[0]} plans {plan.title} on {plan.server}")


@app.command(
    "sign",
    epilog=examples(
        "beamfleet keys sign stick/plan.json --key anna.key",
        "beamfleet keys sign stick/plan.json --signer anna-token --yes",
    ),
)
def sign(
    ctx: typer.Context,
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="The plan; the signature is added to this file.")],
    key: KeyFiles = None,
    signer: Signers = None,
    signers: SignersFile = None,
    passphrase_file: PassphraseFile = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    output: Printed = Format.TABLE,
) -> None:
    """Sign a plan, after saying in words what it would change. No server is asked.

    Each person signs the same file, one after the other, or a copy of it: `publish` puts copies together.
    """
    from beamfleet_server.cli import plans
    from beamfleet_server.cli.changes import describe
    from beamfleet_server.cli.witness import Witness

    session = Session.of(ctx, output)
    before = plans.read(plan)
    if not key and not signer:
        raise CommandError("usage.key", "nobody is named who signs", "--key FILE or --signer NAME")
    if not yes:
        for line in [f"{plan}: {before.title}, on {before.server}", *describe(before)]:
            session.output.note(line)
        if not agreed(session, "sign this?"):
            raise CommandError("plan.declined", "the plan was not signed", "")
    witness = Witness(session.config_dir[0])
    after = before
    for each in open_signers(session.contexts, key, signer, signers, passphrase_file):
        witness.check(each.public_key.keyid, before.held)
        after = after.sign(each)
        after.write(plan)
        witness.remember(each.public_key.keyid, before.held)
    planning.show(
        session,
        after,
        str(plan),
        f"{plan} is signed" if after.documents != before.documents else f"{plan} was signed by this key already",
        f"beamfleet keys publish {plan}" if after.complete else f"beamfleet keys sign {plan} --key FILE, by the next",
    )


@app.command(
    "publish", epilog=examples("beamfleet keys publish stick/plan.json", "beamfleet keys publish a.json b.json")
)
def publish(ctx: typer.Context, plans: PlanFiles, output: Printed = Format.TABLE) -> None:
    """Give a signed plan to the server: all of it at once, or nothing.

    Refused below the threshold, and when somebody else has published meanwhile: then make a new plan. Safe to repeat.
    """
    from beamfleet_server.cli.ceremony import Ceremony

    session = Session.of(ctx, output)
    plan = _merged(plans)
    new = Ceremony(session.client, session.context.keys).publish(plan)
    session.output.done(
        {**planning.item(plan, str(plans[0])), "published": new},
        f"{plan.title} {'is published' if new else 'was published already'} on {session.context.server}",
        "plan",
        "beamfleet keys status",
    )


@app.command("keep", epilog=examples("beamfleet keys keep my-app-1.0.0-x86_64-glibc-otp25.bundle"))
def keep(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A signed bundle.")],
    output: Printed = Format.TABLE,
) -> None:
    """Take the signed metadata out of a bundle into this operator's copies, for `keys plan recover`."""
    from beamfleet_bundles.bundle import Bundle

    from beamfleet_server.cli.keyring import Keyring

    session = Session.of(ctx, output)
    kept = Keyring(session.context.keys).keep_of(Bundle.open(file))
    session.output.done({"bundle": str(file), "kept": kept}, f"kept {', '.join(kept) or 'nothing new'}", "bundle")


@app.command("status", epilog=examples("beamfleet keys status", "beamfleet keys status -o json"))
def status(ctx: typer.Context, output: Printed = Format.TABLE) -> None:
    """Show every role: whose keys, how many must sign, how long it is good, and what to do next.

    Below stands what else of the server runs out: authorities, certificates, revocation lists, operators' tokens.
    """
    from beamfleet_server.cli.ceremony import Ceremony

    session = Session.of(ctx, output)
    ceremony = Ceremony(session.client, session.context.keys)
    now = datetime.now(UTC)
    roles, others = ceremony.status(now), [*_others(session.client.pages("/expiries"), now)]
    session.output.items([*roles, *others], _COLUMNS, "role", "")
    if session.output.for_people:
        for line in [*ceremony.advice(roles), *(f"{row['role']}: {row['mend']}" for row in others if row["mend"])]:
            session.output.note(line)


def _others(expiries: Iterable[Item], now: datetime) -> Iterator[dict[str, Any]]:
    """What runs out and is no role, as rows of the same shape; nobody signs it."""
    for item in expiries:
        if item["what"].split(" ")[0] not in _ROLES:
            left = int((datetime.fromisoformat(item["expires"]) - now).total_seconds())
            mend = "" if item["state"] == "ok" else item["mend"]
            yield {
                "role": item["what"], "version": None, "keys": [], "threshold": 0, "signed_by": "", "left_s": left,
                "expires": item["expires"], "half_life": item["half_life"], "state": item["state"], "mend": mend,
            }  # fmt: skip


def _merged(paths: list[Path]) -> "Plan":
    from beamfleet_server.cli import plans

    return plans.merge([plans.read(path) for path in paths])


def _left(row: Item) -> str:
    left = row["left_s"]
    if left is None:
        return "each assignment for 30d"
    return f"for {show_duration(left)}" if left > 0 else f"expired {show_duration(-left)} ago"


_ROLES = frozenset({"root", "targets", "product", "snapshot", "timestamp", "director"})
"""First words of what `GET /expiries` has of the roles."""
_COLUMNS = (
    Column("ROLE", lambda row: row["role"]),
    Column("VERSION", lambda row: row["version"], right=True),
    Column("SIGNED BY", lambda row: row["signed_by"]),
    Column("GOOD", _left, lambda row: "" if row["state"] == "ok" else "bold red"),
    Column("STATE", lambda row: row["state"], lambda row: "" if row["state"] == "ok" else "bold red"),
    Column("WHAT TO DO", lambda row: row["mend"]),
)
