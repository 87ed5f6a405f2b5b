"""`beamfleet flash`: makes a root, an image, a card or a running machine a device of this fleet.

It looks at the target, checks it, shows a plan, and acts. The server says where its listeners are, which CA and which
TUF root the device has to trust, and makes the one-time token. What is done to a target is done by
`beamfleet_server.flash`; this module writes nothing to it.
"""

import base64
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import typer

from beamfleet_server.cli import flash_batch, flash_order
from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.flash_batch import BatchOptions
from beamfleet_server.cli.flash_options import FlashOptions
from beamfleet_server.cli.flash_order import Order, check_target
from beamfleet_server.cli.options import Printed, examples, spread
from beamfleet_server.cli.output import Format
from beamfleet_server.cli.session import Session
from beamfleet_server.cli.tokens import create_token

if TYPE_CHECKING:
    from beamfleet_server.flash.facts import TargetFacts
    from beamfleet_server.flash.packages import Package
    from beamfleet_server.flash.plan import Plan
    from beamfleet_server.flash.target import Progress, Target

EXAMPLES = examples(
    "beamfleet flash --root device-1 --id gw-1 -l site=berlin --single-user",
    "beamfleet flash --root /mnt/card --id gw-2 --env-file gw-2.env",
    "beamfleet flash --image pi.img --id-from serial --id-prefix gw- --count 1000 --expires 30d",
    "beamfleet flash --device /dev/sdb --image pi.img --id gw-3 --bundle my-app.bundle --yes",
    "beamfleet flash --ssh pi@10.0.0.7 --id gw-4 --dry-run",
    "beamfleet flash --root /mnt/card --id gw-5 --cert made/gw-5/cert.pem --key made/gw-5/key.pem",
    "beamfleet flash --ssh pi@10.0.0.7 --remove",
    "beamfleet flash --batch devices.csv --jobs 8 --label-sheet labels.html --yes",
)
_ANYWHERE = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 (compared, not bound)
Agree = Callable[["Plan"], bool]


@spread(BatchOptions)
@spread(FlashOptions)
def flash(ctx: typer.Context, options: FlashOptions, many: BatchOptions, output: Printed = Format.TABLE) -> None:
    """Make a root, an image, a card or a running machine a device of this fleet.

    Looks and checks first, shows what it will do, and asks. Installs the agent, lays down its configuration and a
    one-time token; the device makes its own key and enrols by itself when it starts. Safe to repeat: an enrolled device
    keeps its identity, its releases and its data.
    """
    session = Session.of(ctx, output)
    many.check()
    if many.batch:
        flash_batch.run(session, options, many)
        return
    with _progress(session) as progress:
        report = flash_one(session, options, lambda plan: _agreed(session, options, plan), progress)
    if "plan" in report:
        _show(session, report["plan"])
        session.output.done(report["plan"].document(), "nothing was changed", "device")
        return
    session.output.done(report, report["sentence"], "device", report["next"])
    if report.get("setup", {}).get("restart") and session.output.for_people:
        session.output.note("its agent runs with the settings that it had: end it, init starts it anew")
    if many.label_sheet and report["device"] and not options.remove:
        flash_batch.print_label(session, many.label_sheet, report, options)


def flash_one(
    session: Session,
    options: FlashOptions,
    agreed: Agree = lambda _: True,
    progress: "Progress" = lambda *_: None,
    told: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Look, check, plan, act; what `-o json` prints, or {"plan": Plan} after a dry run. Prints nothing, and asks nobody
    but `agreed`; `told` hears of a token that is made. Errors: `usage.*`, `flash.*`, `setup.*` and the server's."""
    from beamfleet_server.flash.errors import UnfitError

    kind = check_target(options)
    order = Order.of(options)
    if kind == "deb":
        return _pack(session, options, order, told)
    with _target(kind, options, progress) as target:
        facts = target.facts()
        if options.remove:
            return _remove(kind, target, facts, options, agreed)
        package, found = _judge(target.name, facts, options, order)
        if found := [*target.problems(), *found]:
            raise UnfitError(found)
        _check_words(options, order)
        plan = _plan(kind, target, facts, options, order, package)
        if options.dry_run:
            return {"plan": plan}
        if not agreed(plan):
            raise typer.Abort
        return _act(session, options, order, plan, target, progress, told)


def addresses(listeners: Mapping[str, Mapping[str, Any]], server: str) -> dict[str, str]:
    """Where a device finds the server: {api, enrol} URLs and {mqtt} host:port.

    A listener that names no host of its own is where the operator reached the server.
    """
    known = urlsplit(server).hostname or ""

    def place(name: str) -> str:
        host = str(listeners[name]["host"])
        host = known if host in _ANYWHERE else host
        return f"{f'[{host}]' if ':' in host else host}:{listeners[name]['port']}"

    return {"api": f"https://{place('devices')}", "enrol": f"https://{place('enrolment')}", "mqtt": place("mqtt")}


@contextmanager
def _progress(session: Session) -> "Iterator[Progress]":
    """A bar, from the first word about a step on: before that somebody may be asked."""
    from beamfleet_server.cli.progress import work_on

    shown: list[Progress] = []
    with ExitStack() as stack:

        def show(what: str, done: int, total: int) -> None:
            if not shown:
                shown.append(stack.enter_context(work_on(session.output.stderr)))
            shown[0](what, done, total)

        yield show


# --- looking


def _target(kind: str, options: FlashOptions, progress: "Progress") -> "Target":
    image, number = flash_order.image_of(options.image) if options.image else (None, None)
    if kind == "root" and options.root:
        if options.single_user:
            from beamfleet_server.flash.directory import DirectoryTarget

            return DirectoryTarget(options.root)
        from beamfleet_server.flash.root import RootTarget

        return RootTarget(options.root)
    if kind == "device" and options.device:
        from beamfleet_server.flash.block import BlockTarget

        return BlockTarget(options.device, image, number, progress)
    if kind == "image" and image:
        from beamfleet_server.flash.image import ImageTarget

        return ImageTarget(image, number)
    from beamfleet_server.flash.ssh import SshTarget

    return SshTarget(options.ssh or "")


def _judge(name: str, facts: "TargetFacts", options: FlashOptions, order: Order) -> "tuple[Package | None, list[Any]]":
    """(the package that is to be installed, what stands against the target)."""
    from beamfleet_server.flash import checks, packages, shelf

    if options.single_user:
        other = checks.other_device(facts, order.device)
        return None, [other] if other else []
    shelved = shelf.packages(options.package, options.packages)
    package = packages.choose(facts, shelved)
    needed = shelf.needed_bytes(package) + (2 * order.bundle.manifest.unpacked if order.bundle else 0)
    wish = checks.Wish(
        name=name,
        in_directory=options.root is not None,
        device=order.device,
        allow_unsafe_filesystem=options.allow_unsafe_filesystem,
        needed_bytes=needed,
        release=order.bundle.manifest.requires if order.bundle else None,
        now_s=time.time(),
    )
    found = list(checks.problems(facts, wish))
    if package is None and not found:
        named = options.package
        looked = str(shelf.looked_at(options.packages))
        found.append(packages.unfit(facts, named) if named else packages.lacking(facts, looked))
    return package, found


def _check_words(options: FlashOptions, order: Order) -> None:
    """Refuse what the agent's setup would refuse, before there is a token and before anything is done."""
    from beamfleet_server.flash import agent_setup

    agent_setup.check(options.root, order.words | order.given)


def _plan(
    kind: str, target: "Target", facts: "TargetFacts", options: FlashOptions, order: Order, package: "Package | None"
) -> "Plan":
    from beamfleet_server.flash import plan

    steps = plan.steps(
        facts,
        order.words,
        intentions=target.intentions(),
        package=package,
        token=_identity(facts, options, order),
        bundle=options.bundle,
        at_first_boot=_later(options, facts),
    )
    return plan.Plan(target.name, kind, order.device or facts.device, facts, package, steps)


def _identity(facts: "TargetFacts", options: FlashOptions, order: Order) -> str:
    if facts.enrolled and order.device:
        return "it is enrolled, and keeps its identity"
    if order.given:
        return "with the certificate that is given"
    if options.approval:
        return "it waits for `beamfleet device accept`"
    if order.token:
        return "with the token that is given"
    many = f"{options.count} devices" if options.id_from and options.count > 1 else "one device"
    return f"with a new token for {many}"


def _later(options: FlashOptions, facts: "TargetFacts") -> bool:
    """Whether the device lays itself down when it boots first."""
    from beamfleet_server.flash import agent_setup

    return bool(options.id_from) or not (options.single_user or facts.running or agent_setup.at_hand())


def _show(session: Session, plan: "Plan") -> None:
    if session.output.for_people:
        for line in plan.lines():
            session.output.note(line)


def _agreed(session: Session, options: FlashOptions, plan: "Plan") -> bool:
    """Whether it may be done. A device in a directory changes no system, and nobody is asked."""
    if options.yes or options.single_user:
        return True
    if not session.output.stderr.isatty() or not session.output.for_people:
        hint = "add --yes; --dry-run shows what will be done"
        raise CommandError("usage.not_asked", f"this will change {plan.target}, and nobody was asked", hint)
    _show(session, plan)
    return typer.confirm("go on?", err=True)


# --- acting


def _act(
    session: Session,
    options: FlashOptions,
    order: Order,
    plan: "Plan",
    target: "Target",
    progress: "Progress",
    told: Callable[[str], None],
) -> dict[str, Any]:
    facts = plan.facts
    enrolled = facts.enrolled and bool(order.device)
    known = _known(session)
    target.prepare(progress)
    if plan.package:
        target.install(plan.package.path)
    words = order.words | known | order.given | _token(session, options, order, told, enrolled=enrolled)
    answer: dict[str, Any] = {}
    if _later(options, facts):
        target.provision(words)
    else:
        answer = target.set_up(words)
    if options.bundle:
        target.seed(options.bundle)
    starts = target.start()
    if order.labels and (enrolled or order.given):
        session.client.patch(f"/devices/{order.device}", {"labels": order.labels})
    device = order.device or str(answer.get("device", ""))
    who = f"device {device}" if device else f"a device with an id from {options.id_from}"
    then = f"{starts}; beamfleet device show {device}" if device else f"{starts}; beamfleet device list"
    return {
        "device": device,
        "target": target.name,
        "kind": plan.kind,
        "root": str(options.root) if options.root else "",
        "run": answer.get("run", ""),
        "enrolled": enrolled,
        "fingerprint": _fingerprint(order),
        "package": plan.package.path.name if plan.package else "",
        "steps": list(plan.steps),
        "start": starts,
        "setup": answer,
        "sentence": f"{target.name} is {'again ' if enrolled else ''}{who}",
        "next": then,
    }


def _fingerprint(order: Order) -> str:
    """That of the device's key, if it is made already; empty: the device makes it."""
    if not order.given:
        return ""
    from beamfleet_bundles import pki

    return pki.fingerprint(pki.read_key(order.given["key_pem"].encode(), "of the device").public_key())


def _known(session: Session) -> dict[str, Any]:
    """What the server says of itself: words of the setup."""
    from beamfleet_server.cli.signing import Signing

    info = session.client.get("/server")
    root = Signing(session.client, session.context.keys).root()
    return {
        "server": addresses(info["listeners"], session.context.server),
        "ca_pem": info["fleet_ca"],
        "root_json_base64": base64.b64encode(root).decode("ascii"),
    }


def _token(
    session: Session, options: FlashOptions, order: Order, told: Callable[[str], None], *, enrolled: bool
) -> dict[str, str]:
    if enrolled or options.approval or order.given:
        return {}
    if order.token:
        return {"token": order.token}
    if order.device:
        made = create_token(session.client, order.device, order.labels, order.life_s, options.replace)
    else:
        wish = {"count": options.count, "prefix": options.id_prefix, "labels": order.labels}
        made = session.client.post("/tokens", wish | {"expires_in_s": order.life_s})
    told(str(made["token"]))
    return {"token": str(made["token"])}


def _pack(session: Session, options: FlashOptions, order: Order, told: Callable[[str], None]) -> dict[str, Any]:
    from beamfleet_server.flash import deb

    if options.deb is None or options.dry_run:
        raise CommandError("usage.target", "--dry-run is for a target", "--deb only writes a file")
    _check_words(options, order)
    words = order.words | _known(session) | order.given | _token(session, options, order, told, enrolled=False)
    made = deb.write(options.deb, words, options.bundle)
    return {
        "device": order.device,
        "target": str(made),
        "kind": "deb",
        "enrolled": False,
        "fingerprint": _fingerprint(order),
        "sentence": f"{made} makes a system with beamfleet-agent a device; it holds secrets",
        "next": f"apt-get install ./beamfleet-agent_*.deb ./{made.name} there",
    }


def _remove(kind: str, target: "Target", facts: "TargetFacts", options: FlashOptions, agreed: Agree) -> dict[str, Any]:
    from beamfleet_server.flash import checks
    from beamfleet_server.flash.errors import UnfitError
    from beamfleet_server.flash.plan import Plan, removal
    from beamfleet_server.flash.removal import nothing

    if options.single_user and options.root:
        missing = nothing(options.root)
    else:
        missing = checks.no_root(facts, checks.Wish(target.name))
    against = (missing, checks.other_device(facts, options.id))
    if found := [*target.problems(), *(each for each in against if each)]:
        raise UnfitError(found)
    plan = Plan(target.name, kind, facts.device, facts, None, removal(facts, options.wipe))
    if options.dry_run:
        return {"plan": plan}
    if not agreed(plan):
        raise typer.Abort
    done = target.remove(options.wipe)
    then = f"beamfleet device decommission {facts.device}" if facts.device and options.wipe else ""
    return {
        "device": facts.device,
        "target": target.name,
        "kind": kind,
        "removed": done,
        "sentence": f"{target.name}: {'; '.join(done) or 'there was nothing to remove'}",
        "next": then,
    }
