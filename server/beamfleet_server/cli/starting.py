"""`beamfleet rollout start`: a plan of a file and of flags becomes a rollout, or with --dry-run a look at what it would
do. `push` begins its rollout here as well."""

import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from beamfleet_server.cli import completion
from beamfleet_server.cli.errors import CommandError, RemoteError
from beamfleet_server.cli.options import Printed, Timeout, examples, spread
from beamfleet_server.cli.output import Column, Format, Item
from beamfleet_server.cli.quantities import parse_duration, show_bytes, show_duration, show_time
from beamfleet_server.cli.rollout_file import PlanFile, read_plan
from beamfleet_server.cli.rollout_flags import DryRun, Flags, FromFile, check_chosen
from beamfleet_server.cli.rollouts import app, watch
from beamfleet_server.cli.session import Session

NAMED = 5


@dataclass(frozen=True, slots=True)
class Wish:
    """The plan that is sent, and the file that a part of it came from."""

    plan: dict[str, Any]
    file: PlanFile | None = None

    @classmethod
    def of(cls, flags: Flags, path: Path | None) -> "Wish":
        """The file's plan with the flags over it; errors `usage.*`, `rollout.plan_file`, `file.unreadable`."""
        given = flags.mapping()
        file = replace(read_plan(path), others=frozenset(given)) if path else None
        plan = {**(file.mapping if file else {}), **given}
        check_chosen(plan, str(file.path) if file else "")
        return cls(plan, file)

    def release(self, product: str | None, version: str | None) -> "Wish":
        """The wish for this release; `usage.plan` without one. Another product than the file's is a mistake."""
        named = {key: value for key, value in (("product", product), ("version", version)) if value}
        plan = {**self.plan, **named}
        if not plan.get("product") or not plan.get("version"):
            raise CommandError(
                "usage.plan", "no release is named", "PRODUCT VERSION, or -f PLAN.yaml with `product` and `version`"
            )
        if self.file and product and self.plan.get("product") not in (None, product):
            what = f"{self.file.path} is for {str(self.plan['product'])[:40]}, not for {product}"
            raise CommandError("usage.plan", what, "leave `product` out of a plan that serves several")
        return Wish(plan, self.file)

    def begin(self, session: Session) -> dict[str, Any]:
        """Start the rollout, once, also if the answer is lost; the API's rollout object."""
        return self._ask(session, "/rollouts", {"key": secrets.token_hex(16), "plan": self.plan})

    def preview(self, session: Session) -> dict[str, Any]:
        """What the rollout would do; the API's preview object."""
        return self._ask(session, "/plans/preview", {"plan": self.plan})

    def _ask(self, session: Session, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            return session.client.post_again(path, body)
        except RemoteError as error:
            raise (self.file.located(error) if self.file else error) from error


@app.command(
    "start",
    epilog=examples(
        "beamfleet rollout start sensor-gateway 1.1.0 -l site=berlin",
        "beamfleet rollout start sensor-gateway 1.1.0 --all --phase name=canary,devices=2,soak=10m,gate --watch",
        "beamfleet rollout start -f plan.yaml --dry-run",
        "beamfleet rollout start sensor-gateway 1.2.0 -f plan.yaml --window 'mon-fri 02:00-04:00'",
    ),
)
@spread(Flags)
def start(
    ctx: typer.Context,
    product: Annotated[
        str | None,
        typer.Argument(metavar="[PRODUCT]", help="A product's name.", autocompletion=completion.products),
    ] = None,
    version: Annotated[str | None, typer.Argument(metavar="[VERSION]", help="A published version.")] = None,
    file: FromFile = None,
    *,
    flags: Flags,
    dry_run: DryRun = False,
    follow: Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end.")] = False,
    timeout: Timeout = "",
    output: Printed = Format.TABLE,
) -> None:
    """Start a rollout of a published release.

    One device proves it first, unless the phases say otherwise; when all of a phase have committed, the next one
    begins. Too many that revert or fail halt it. ROLLOUTS.md tells of plans.
    """
    session = Session.of(ctx, output)
    wish = Wish.of(flags, file).release(product, version)
    timeout_s = parse_duration(timeout) if timeout else 0
    if dry_run:
        show_preview(session, wish.preview(session))
        return
    rollout = wish.begin(session)
    if follow:
        watch(session, rollout["id"], timeout_s)
    announce(session, rollout)


def announce(session: Session, rollout: Item) -> None:
    """Print that a rollout has begun, for whoever does not follow it."""
    number, release = rollout["id"], f"{rollout['product']} {rollout['version']}"
    session.output.done(
        rollout,
        f"rollout {number} of {release} started on {sum(rollout['counts'].values())} devices",
        "id",
        f"beamfleet rollout status {number} --watch",
    )


def show_preview(session: Session, preview: Item) -> None:
    """Print who would get what, when, how many bytes, and who would not."""
    output = session.output
    superseded = ", ".join(str(number) for number in preview["superseded"])
    output.item(
        preview,
        [
            ("release", f"{preview['product']} {preview['version']}"),
            ("devices", f"{preview['devices']}, of which {preview['already']} run it already"),
            ("download", show_bytes(preview["bytes"])),
            ("takes over from", f"rollouts {superseded}" if superseded else "no other rollout"),
        ],
        "version",
    )
    if not output.for_people:
        return
    for items, columns, name in (
        (preview["phases"], _PHASES, "name"),
        (preview["bundles"], _BUNDLES, "target"),
        (preview["windows"], _WINDOWS, "zone"),
        (preview["excluded"], _EXCLUDED, "reason"),
    ):
        if items:
            output.blank()
            output.items(items, columns, name, "")
    output.note("nothing was changed; without --dry-run it starts")


_PHASES = (
    Column("PHASE", lambda phase: phase["name"]),
    Column("DEVICES", lambda phase: phase["size"], right=True),
    Column("FAILURES", lambda phase: f"at most {phase['tolerated']}"),
    Column("SOAK", lambda phase: show_duration(phase["soak_s"]) if phase["soak_s"] else ""),
    Column("GATE", lambda phase: "a person opens it" if phase["gate"] else ""),
)
_BUNDLES = (
    Column("BUNDLE", lambda bundle: bundle["target"]),
    Column("DEVICES", lambda bundle: bundle["devices"], right=True),
    Column("SIZE", lambda bundle: show_bytes(bundle["size"]), right=True),
    Column("TOGETHER", lambda bundle: show_bytes(bundle["bytes"]), right=True),
)
_WINDOWS = (
    Column("ZONE", lambda window: window["zone"]),
    Column("DEVICES", lambda window: window["devices"], right=True),
    Column("NOW", lambda window: "open" if window["open"] else "closed"),
    Column("CHANGES", lambda window: show_time(window["next"])),
)
_EXCLUDED = (
    Column("NOT REACHED", lambda excluded: excluded["reason"]),
    Column("DEVICES", lambda excluded: excluded["count"], right=True),
    Column("FOR EXAMPLE", lambda excluded: ", ".join(excluded["examples"][:NAMED])),
)
