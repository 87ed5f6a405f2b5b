"""`beamfleet push`: the whole main job in one line. Build, sign, publish, roll out, follow."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beamfleet_server.cli.building import (
    BuildOptions,
    DataSchema,
    Distributed,
    Distribution,
    Hardware,
    ProbeCommand,
    ProbeHttp,
    ProbeTimeout,
    Product,
    Version,
)
from beamfleet_server.cli.bundles import open_whole, publish_bundle
from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.options import Printed, Selector, Timeout, examples
from beamfleet_server.cli.output import Format
from beamfleet_server.cli.quantities import parse_duration
from beamfleet_server.cli.rollouts import All, Canary, Note, announce, begin, check_selector, watch
from beamfleet_server.cli.session import Session
from beamfleet_server.errors import ServerError

if TYPE_CHECKING:
    from beamfleet_bundles.bundle import Bundle

EXAMPLES = examples(
    "beamfleet push my_app-1.1.0.tar.gz -l site=berlin",
    "beamfleet push _build/prod/rel/my_app --all --canary 3 --timeout 30m",
)


def push(
    ctx: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="TARBALL|DIR|FILE.bundle", help="A release, or a bundle of one.")],
    labels: Selector = None,
    everyone: All = False,
    canary: Canary = 1,
    timeout: Timeout = "",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the rollout to its end.")] = True,
    note: Note = "",
    product: Product = None,
    version: Version = None,
    hardware: Hardware = None,
    distribution: Distributed = Distribution.NONE,
    probe_http: ProbeHttp = None,
    probe_command: ProbeCommand = None,
    probe_timeout_s: ProbeTimeout = 5,
    data_schema: DataSchema = None,
    output: Printed = Format.TABLE,
) -> None:
    """Bring a release to devices: build, sign, roll out.

    The canaries get it first, everyone else when they have committed; one that reverts halts the rollout. The exit
    code is 0 completed, 3 halted, 4 aborted, 5 not ended in time. Ctrl-C ends the following, not the rollout. Safe to
    repeat: the same release is not published twice, and devices that run it count at once.
    """
    session = Session.of(ctx, output)
    chosen = check_selector(labels, everyone)
    timeout_s = parse_duration(timeout) if timeout else 0
    products = _products(session)
    options = BuildOptions(
        product, version, hardware, distribution, probe_http, probe_command, probe_timeout_s, data_schema
    )
    with tempfile.TemporaryDirectory(prefix="beamfleet-") as scratch:
        bundle = _open(session, source, options, Path(scratch))
        manifest = bundle.manifest
        if manifest.product not in products:
            raise ServerError(
                "product.unknown",
                f"there is no product {manifest.product}",
                f"beamfleet product create {manifest.product}",
            )
        item = publish_bundle(session, bundle)
    session.output.note(f"{manifest.product} {manifest.version} is published{' already' if item['already'] else ''}")
    rollout = begin(session, manifest.product, manifest.version, chosen, canary, note)
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
