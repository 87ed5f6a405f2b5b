"""`beamfleet push`: the whole main job in one line. Build, sign, publish, roll out, follow."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beamfleet_server.cli.building import BuildOptions
from beamfleet_server.cli.bundles import WithdrawOlder, open_whole, publish_bundle
from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.options import Printed, Timeout, examples, spread
from beamfleet_server.cli.output import Format
from beamfleet_server.cli.quantities import parse_duration
from beamfleet_server.cli.rollout_flags import Flags, FromFile
from beamfleet_server.cli.rollouts import watch
from beamfleet_server.cli.session import Session
from beamfleet_server.cli.signers import KeyFiles, PassphraseFile, Signers, SignersFile, open_signers
from beamfleet_server.cli.starting import Wish, announce
from beamfleet_server.errors import ServerError

if TYPE_CHECKING:
    from beamfleet_bundles.bundle import Bundle

EXAMPLES = examples(
    "beamfleet push my_app-1.1.0.tar.gz -l site=berlin",
    "beamfleet push _build/prod/rel/my_app --all --canary 3 --timeout 30m",
    "beamfleet push my_app-1.1.0.tar.gz --all --phase name=canary,devices=1,soak=10m --phase name=tenth,devices=10%",
)


@spread(BuildOptions)
@spread(Flags)
def push(
    ctx: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="TARBALL|DIR|FILE.bundle", help="A release, or a bundle of one.")],
    flags: Flags,
    options: BuildOptions,
    file: FromFile = None,
    timeout: Timeout = "",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the rollout to its end.")] = True,
    key: KeyFiles = None,
    signer: Signers = None,
    signers: SignersFile = None,
    passphrase_file: PassphraseFile = None,
    withdraw_older: WithdrawOlder = False,
    output: Printed = Format.TABLE,
) -> None:
    """Bring a release to devices: build, sign, roll out.

    One device proves it first, everyone else follows when it has committed; a plan of phases says otherwise, as flags
    or with -f (`beamfleet rollout start` has the same). The exit code is 0 completed, 3 halted, 4 aborted, 5 expired
    or not ended in time. Ctrl-C ends the following, not the rollout. Safe to repeat: the same release is not published
    twice, and devices that run it count at once.
    """
    session = Session.of(ctx, output)
    wish = Wish.of(flags, file)
    timeout_s = parse_duration(timeout) if timeout else 0
    products = _products(session)
    with tempfile.TemporaryDirectory(prefix="beamfleet-") as scratch:
        bundle = _open(session, source, options, Path(scratch))
        manifest = bundle.manifest
        wish = wish.release(manifest.product, manifest.version)
        if manifest.product not in products:
            raise ServerError(
                "product.unknown",
                f"there is no product {manifest.product}",
                f"beamfleet product create {manifest.product}",
            )
        opened = open_signers(session.contexts, key, signer, signers, passphrase_file)
        item = publish_bundle(session, bundle, opened, withdraw_older=withdraw_older)
    session.output.note(f"{manifest.product} {manifest.version} is published{' already' if item['already'] else ''}")
    rollout = wish.begin(session)
    if wait:
        watch(session, rollout["id"], timeout_s, {"bundle": item})
    announce(session, {**rollout, "bundle": item})


def _products(session: Session) -> set[str]:
    """The server's products; `init.missing` before it has signing roles. Asked first, so that no build is in vain."""
    metadata = session.client.get("/server")["metadata"]
    if metadata["root"] is None:
        raise CommandError(
            "init.missing", f"{session.client.server} has no signing roles yet", "beamfleet init --development"
        )
    return set(metadata["products"])


def _open(session: Session, source: Path, options: BuildOptions, scratch: Path) -> "Bundle":
    from beamfleet_bundles.bundle import SUFFIX

    if source.suffix == SUFFIX and not source.is_dir():
        if options != BuildOptions():
            raise CommandError(
                "usage.built",
                f"{source} is built already: its product, version and probes cannot be changed",
                "push the release itself with these options",
            )
        return open_whole(source)
    return options.build(source, scratch, session.output)[0]
