"""`beamfleet keys plan`: what people shall sign, made where the server can be asked, signed where the keys are."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.files import read_file
from beamfleet_server.cli.options import Printed, examples, group
from beamfleet_server.cli.output import Format
from beamfleet_server.cli.session import Session

if TYPE_CHECKING:
    from securesystemslib.signer import Key

    from beamfleet_server.cli.ceremony import Ceremony, Draft
    from beamfleet_server.cli.plans import Plan

app = group("Make a plan: metadata that people shall sign with their keys.")

Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the plan goes, such as a file on a stick.")]
Role = Annotated[str, typer.Argument(metavar="ROLE", help="root, targets or a product.")]
Public = Annotated[
    list[Path] | None, typer.Option("--add", metavar="FILE.pub", help="A key that may sign from now on; repeat.")
]
Gone = Annotated[
    list[str] | None,
    typer.Option("--remove", metavar="KEY", help="A key that may not any more: its name, id or FILE.pub; repeat."),
]
Threshold = Annotated[
    int | None, typer.Option("--threshold", metavar="N", min=1, max=32, help="How many must sign; else as before.")
]
KEYS_NEEDED = 2


@app.command(
    "init",
    epilog=examples(
        "beamfleet keys plan init --root anna.pub --root ben.pub --root carl.pub --out stick/first.json",
        "beamfleet keys plan init --root a.pub --root b.pub --root c.pub --targets d.pub --targets e.pub "
        "--targets f.pub --out stick/first.json",
    ),
)
def init(
    ctx: typer.Context,
    out: Out,
    root: Annotated[list[Path], typer.Option("--root", metavar="FILE.pub", help="A key of root; repeat.")],
    root_threshold: Annotated[
        int, typer.Option("--root-threshold", metavar="N", min=1, max=32, help="How many must sign a root.")
    ] = KEYS_NEEDED,
    targets: Annotated[
        list[Path] | None,
        typer.Option("--targets", metavar="FILE.pub", help="A key of targets; repeat. Else those of root."),
    ] = None,
    targets_threshold: Annotated[
        int, typer.Option("--targets-threshold", metavar="N", min=1, max=32, help="How many must sign targets.")
    ] = KEYS_NEEDED,
    output: Printed = Format.TABLE,
) -> None:
    """Plan the first root and targets of a server, or new ones in place of development keys.

    On a server with development keys the old keys sign as well: they are in the configuration directory.
    """
    from beamfleet_bundles.repository import RoleKeys

    from beamfleet_server.cli.ceremony import checked
    from beamfleet_server.cli.plans import Held

    session = Session.of(ctx, output)
    ceremony = _ceremony(session)
    online = ceremony.online_keys()
    draft = ceremony.draft() if ceremony.initialised() else ceremony.draft_on(Held())
    roles = {
        "root": checked(RoleKeys(_read(root), root_threshold), "root"),
        "targets": checked(RoleKeys(_read(targets or root), targets_threshold), "targets"),
        "snapshot": RoleKeys((online["snapshot"],)),
        "timestamp": RoleKeys((online["timestamp"],)),
    }
    draft.first(roles, RoleKeys((online["director"],)))
    _write(session, ceremony, draft, "the first root and targets", out)


@app.command(
    "rotate",
    epilog=examples(
        "beamfleet keys plan rotate targets --remove ben --add dora.pub --out stick/plan.json",
        "beamfleet keys plan rotate sensor-gateway --add emil.pub --threshold 2 --out stick/plan.json",
    ),
)
def rotate(
    ctx: typer.Context,
    role: Role,
    out: Out,
    add: Public = None,
    remove: Gone = None,
    threshold: Threshold = None,
    output: Printed = Format.TABLE,
) -> None:
    """Plan other keys for root, targets or a product.

    A new root is signed by the old keys and by the new ones. What the role has signed is signed again.
    """
    from beamfleet_server.cli.ceremony import changed, select

    session = Session.of(ctx, output)
    ceremony = _ceremony(session)
    draft = ceremony.draft()
    if role not in draft.names:
        raise _no_role(draft, role)
    before = draft.role(role)
    after = changed(before, select(before, remove or ()), _read(add or ()), threshold, role)
    if after == before:
        raise CommandError("plan.nothing", f"nothing would change for {role}", "--add, --remove or --threshold")
    draft.change(role, after)
    _write(session, ceremony, draft, f"other keys for {role}", out)


@app.command(
    "revoke",
    epilog=examples(
        "beamfleet keys plan revoke ben --out stick/plan.json",
        "beamfleet keys plan revoke 1f3c5a70 --add dora.pub --out stick/plan.json",
    ),
)
def revoke(
    ctx: typer.Context,
    key: Annotated[str, typer.Argument(metavar="KEY", help="A key's name, its id or its FILE.pub.")],
    out: Out,
    add: Public = None,
    output: Printed = Format.TABLE,
) -> None:
    """Plan the end of a lost or stolen key, in every role that it may sign for.

    With --add another key takes its place everywhere. Thresholds stay; a role that could not be signed for any more is
    refused.
    """
    from beamfleet_server.cli.ceremony import changed, find, select

    session = Session.of(ctx, output)
    ceremony = _ceremony(session)
    draft = ceremony.draft()
    roles = find(draft, key)
    for role in roles:
        before = draft.role(role)
        draft.change(role, changed(before, select(before, [key]), _read(add or ()), None, role))
    _write(session, ceremony, draft, f"the end of key {key} in {', '.join(roles)}", out)


@app.command(
    "renew",
    epilog=examples(
        "beamfleet keys plan renew --out stick/plan.json",
        "beamfleet keys plan renew root targets --out stick/plan.json",
    ),
)
def renew(
    ctx: typer.Context,
    out: Out,
    roles: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ROLE]...", help="root, targets, products; else all past half of their life."),
    ] = None,
    output: Printed = Format.TABLE,
) -> None:
    """Plan a new life for root, targets or products, with nothing else changed."""
    session = Session.of(ctx, output)
    ceremony = _ceremony(session)
    draft = ceremony.draft()
    due = roles or ceremony.due(draft.held)
    if not due:
        raise CommandError("plan.nothing", "nothing is past half of its life", "name a role to renew it all the same")
    for role in due:
        if role not in draft.names:
            raise _no_role(draft, role)
        draft.renew(role)
    _write(session, ceremony, draft, f"a new life for {', '.join(due)}", out)


@app.command("online", epilog=examples("beamfleet keys plan online --out stick/plan.json"))
def online(ctx: typer.Context, out: Out, output: Printed = Format.TABLE) -> None:
    """Plan that devices trust the online keys which the server has now, and the old ones no more.

    After a theft: set the server up on a clean machine from a backup without the directory keys/; it makes new keys at
    its start. Devices follow by themselves when they next look.
    """
    session = Session.of(ctx, output)
    ceremony = _ceremony(session)
    draft = ceremony.draft()
    if not draft.online(ceremony.online_keys()):
        raise CommandError(
            "plan.nothing",
            "root and targets name the server's keys already",
            "stop the server, move the directory keys/ of its data away, start it: it makes new ones",
        )
    _write(session, ceremony, draft, "the server's new online keys", out)


@app.command(
    "product",
    epilog=examples(
        "beamfleet keys plan product sensor-gateway --key emil.pub --key ci.pub --out stick/plan.json",
        "beamfleet keys plan product safety --key a.pub --key b.pub --key c.pub --threshold 2 --out stick/plan.json",
    ),
)
def product(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Small letters, digits and dashes.")],
    out: Out,
    key: Annotated[
        list[Path], typer.Option("--key", metavar="FILE.pub", help="A key that may sign its releases; repeat.")
    ],
    threshold: Annotated[
        int, typer.Option("--threshold", metavar="N", min=1, max=32, help="How many must sign a release.")
    ] = 1,
    output: Printed = Format.TABLE,
) -> None:
    """Plan a further product and whose keys sign its releases."""
    from beamfleet_bundles.names import check_product
    from beamfleet_bundles.repository import RoleKeys

    from beamfleet_server.cli.ceremony import checked

    session = Session.of(ctx, output)
    check_product(name)
    ceremony = _ceremony(session)
    draft = ceremony.draft()
    draft.add_product(name, checked(RoleKeys(_read(key), threshold), name))
    _write(session, ceremony, draft, f"the product {name}", out)


@app.command(
    "whereabouts",
    epilog=examples(
        "beamfleet keys plan whereabouts --out stick/plan.json",
        "beamfleet keys plan whereabouts --server https://new.example:8444,https://new.example:8445,new.example:8883 "
        "--authority new-ca.pem --out stick/plan.json",
        "beamfleet keys plan whereabouts --none --out stick/plan.json",
    ),
)
def whereabouts(
    ctx: typer.Context,
    out: Out,
    server: Annotated[
        list[str] | None,
        typer.Option(
            "--server", metavar="API,ENROL,MQTT", help="https://HOST:PORT twice and HOST:PORT; repeat; best one first."
        ),
    ] = None,
    authority: Annotated[
        list[Path] | None, typer.Option("--authority", metavar="FILE.pem", help="A CA's certificate; repeat.")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Back to what devices were flashed with.")] = False,
    output: Printed = Format.TABLE,
) -> None:
    """Plan what targets tells devices: where the server is, and which authorities vouch for it.

    That is how the fleet's authority and the server's name change without a visit. What is not given is taken from
    what the server says of itself.
    """
    from beamfleet_bundles.whereabouts import Whereabouts

    session = Session.of(ctx, output)
    ceremony = _ceremony(session)
    draft = ceremony.draft()
    known = Whereabouts()
    if not none:
        authorities = [read_file(path, "the authority") for path in authority] if authority else None
        known = ceremony.whereabouts([_server(text) for text in server] if server else None, authorities)
    draft.tell(known)
    _write(session, ceremony, draft, "where devices find the server", out)


@app.command(
    "evidence",
    epilog=examples(
        "beamfleet keys plan evidence --add anna-evidence.pub --out stick/plan.json",
        "beamfleet keys plan evidence --remove ben --out stick/plan.json",
    ),
)
def evidence(
    ctx: typer.Context,
    out: Out,
    add: Annotated[
        list[Path] | None,
        typer.Option("--add", metavar="FILE.pub", help="A key of `keys evidence create`; repeat for more."),
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", metavar="NAME", help="Whose key opens no more; repeat for more.")
    ] = None,
    output: Printed = Format.TABLE,
) -> None:
    """Plan who may open the evidence that devices hand in: crash dumps, logs, facts.

    It holds from when each device looks at the metadata again. What was sealed before stays open to whom it was sealed
    for.
    """
    from beamfleet_bundles import recipients

    from beamfleet_server.cli.evidence_keys import changed

    session = Session.of(ctx, output)
    ceremony = _ceremony(session)
    draft = ceremony.draft()
    before = recipients.read(draft.targets)
    after = changed(before, [recipients.read_public(path) for path in add or ()], remove or ())
    if after == list(before):
        raise CommandError("plan.nothing", "nothing would change", "--add FILE.pub or --remove NAME")
    draft.open_to(after)
    _write(session, ceremony, draft, "who opens evidence", out)


@app.command("recover", epilog=examples("beamfleet keys plan recover --out stick/plan.json"))
def recover(ctx: typer.Context, out: Out, output: Printed = Format.TABLE) -> None:
    """Plan the recovery of a server that has lost its metadata and all its online keys.

    The new server may be empty, or come from an old backup. What it has lost is taken from this operator's copies
    (keys/CONTEXT/metadata); a new root and new targets name the new server's keys. Publish bundles again afterwards.
    """
    session = Session.of(ctx, output)
    ceremony = _ceremony(session)
    draft = ceremony.draft_on(ceremony.known())
    if not draft.online(ceremony.online_keys()):
        draft.renew("targets")
    _write(session, ceremony, draft, "the recovery of the server", out, recovers=True)


def show(session: Session, plan: "Plan", path: str, sentence: str, then: str = "") -> None:
    """What a plan would change and who must sign, or the same for scripts."""
    from beamfleet_server.cli.changes import describe
    from beamfleet_server.cli.plans import show_missing

    session.output.done(item(plan, path), sentence, "plan")
    if session.output.for_people:
        for line in [*describe(plan), *(show_missing(plan) or ["every signature that it takes is there"])]:
            session.output.note(line)
        if then:
            session.output.note(f"next: {then}")


def item(plan: "Plan", path: str) -> dict[str, object]:
    """A plan as scripts see it."""
    from beamfleet_bundles.keys import name_of

    from beamfleet_server.cli.changes import describe

    def people(keys: "Iterable[Key]") -> list[dict[str, str]]:
        return [{"keyid": key.keyid, "name": name_of(key)} for key in keys]

    return {
        "plan": path,
        "title": plan.title,
        "server": plan.server,
        "complete": plan.complete,
        "changes": describe(plan),
        "signatures": [
            {
                "document": row.document,
                "by": row.by,
                "threshold": row.threshold,
                "signed": people(key for key in row.keys if key.keyid in row.signed),
                "open": people(row.open),
            }
            for row in plan.wanted
        ],
    }


def _write(
    session: Session, ceremony: "Ceremony", draft: "Draft", title: str, out: Path, *, recovers: bool = False
) -> None:
    plan = draft.plan(title, ceremony.server, recovers=recovers)
    plan.write(out)
    show(
        session, plan, str(out), f"{out} plans {title}", f"beamfleet keys sign {out} --key FILE, by each who must sign"
    )


def _ceremony(session: Session) -> "Ceremony":
    from beamfleet_server.cli.ceremony import Ceremony

    return Ceremony(session.client, session.context.keys)


def _read(files: "Iterable[Path]") -> "tuple[Key, ...]":
    from beamfleet_bundles.keys import read_public

    return tuple(read_public(path) for path in files)


def _server(text: str) -> dict[str, str]:
    parts = text.split(",")
    if len(parts) != 3:
        raise CommandError("usage.server", f"{text!r} is not API,ENROL,MQTT", "https://H:8444,https://H:8445,H:8883")
    return dict(zip(("api", "enrol", "mqtt"), parts, strict=True))


def _no_role(draft: "Draft", role: str) -> CommandError:
    known = ", ".join(draft.names)
    return CommandError("plan.role", f"there is no role {role} with offline keys", f"one of {known}")
