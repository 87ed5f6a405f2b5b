"""`beamfleet bundle`: from a release tarball to a signed bundle on the server, in single steps.

`build` and `inspect` work on files alone; `sign`, `publish` and `list` ask the server.
"""

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.names import target_path

from beamfleet_server.cli.building import BuildOptions, Source, describe, show_probes
from beamfleet_server.cli.keyring import Keyring
from beamfleet_server.cli.options import Printed, examples, group, spread
from beamfleet_server.cli.output import Column, Format, Item
from beamfleet_server.cli.progress import open_with_progress
from beamfleet_server.cli.quantities import show_bytes, show_time
from beamfleet_server.cli.session import Session
from beamfleet_server.cli.signers import KeyFiles, PassphraseFile, Signers, SignersFile, open_signers

if TYPE_CHECKING:
    from beamfleet_bundles.bundle import Bundle
    from securesystemslib.signer import Signer

app = group("Build, inspect, sign and publish bundles step by step.")

WithdrawOlder = Annotated[
    bool,
    typer.Option(
        "--withdraw-older",
        help="Devices that have committed this release never take an older one of it again.",
    ),
]
BundleFile = Annotated[Path, typer.Argument(metavar="FILE", help="A .bundle file.")]


@app.command(
    "build",
    epilog=examples(
        "beamfleet bundle build _build/prod/rel/my_app/my_app-1.0.0.tar.gz",
        "beamfleet bundle build my_app-1.0.0.tar.gz --hardware rpi4 --probe-http 8080/health --out bundles",
        "beamfleet bundle build my_app-1.0.0.tar.gz --probe-liveness 'http=8080/health,period_s=5' "
        "--probe-readiness erlang=my_app:ready",
    ),
)
@spread(BuildOptions)
def build(
    ctx: typer.Context,
    source: Source,
    options: BuildOptions,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where PRODUCT-VERSION-TARGET.bundle goes.")
    ] = Path(),
    output: Printed = Format.TABLE,
) -> None:
    """Build an unsigned bundle from a release: relx, mix or systools; no server is asked.

    The same input gives the same bytes.
    """
    session = Session.of(ctx, output)
    bundle, notices = options.build(source, out, session.output)
    session.output.done(
        {**describe(bundle), "notices": notices},
        f"built {bundle.path}",
        "path",
        f"beamfleet bundle publish {bundle.path}",
    )


@app.command(
    "inspect",
    epilog=examples(
        "beamfleet bundle inspect my-app-1.0.0-x86_64-glibc-otp25.bundle", "beamfleet bundle inspect FILE -o json"
    ),
)
def inspect(
    ctx: typer.Context,
    file: BundleFile,
    files: Annotated[bool, typer.Option("--files", help="List every file.")] = False,
    output: Printed = Format.TABLE,
) -> None:
    """Show what is in a bundle and whether it is whole; with a known root also whether its signature holds."""
    session = Session.of(ctx, output)
    bundle = open_whole(file)
    signature = _signature(session, bundle)
    content = _builtins(bundle.manifest)
    item = {**describe(bundle), "signature": signature, "metadata": sorted(bundle.metadata), "content": content}
    session.output.item(item, _facts(bundle, item), "path")
    if files and session.output.for_people:
        session.output.blank()
        session.output.items(content["entries"], _FILES, "path", "")


@app.command(
    "sign",
    epilog=examples(
        "beamfleet bundle sign my-app-1.0.0-x86_64-glibc-otp25.bundle",
        "beamfleet bundle sign my-app-1.0.0-x86_64-glibc-otp25.bundle --key emil.key",
    ),
)
def sign(
    ctx: typer.Context,
    file: BundleFile,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write there; else FILE itself is replaced.")
    ] = None,
    key: KeyFiles = None,
    signer: Signers = None,
    signers: SignersFile = None,
    passphrase_file: PassphraseFile = None,
    withdraw_older: WithdrawOlder = False,
    output: Printed = Format.TABLE,
) -> None:
    """Sign a bundle with its product's key, on top of what the server has; publish it soon, before others publish.

    Where it takes several people, each signs the same file in turn. The key is that of the keyring unless one is named.
    """
    from beamfleet_bundles.bundle import Bundle

    from beamfleet_server.cli.plans import show_wanted
    from beamfleet_server.cli.signing import Signing

    session = Session.of(ctx, output)
    bundle = open_whole(file)
    opened = open_signers(session.contexts, key, signer, signers, passphrase_file)
    signing = Signing(session.client, session.context.keys, signers=opened, withdraw_older=withdraw_older)
    signed = signing.sign(bundle.manifest, bundle.metadata)
    bundle.with_metadata(out or file, signed.metadata)
    item = {
        **describe(Bundle.open(out or file)),
        "counter": signed.facts.custom.counter,
        "metadata": sorted(signed.metadata),
        "missing": signed.wanted.missing,
    }
    then = f"beamfleet bundle publish {out or file}"
    if signed.wanted.missing:
        then = f"{show_wanted(signed.wanted)}: beamfleet bundle sign {out or file} --key FILE"
    session.output.done(item, f"signed {out or file} as release {item['counter']} of {item['product']}", "path", then)


@app.command("publish", epilog=examples("beamfleet bundle publish my-app-1.0.0-x86_64-glibc-otp25.bundle"))
def publish(
    ctx: typer.Context,
    file: BundleFile,
    key: KeyFiles = None,
    signer: Signers = None,
    signers: SignersFile = None,
    passphrase_file: PassphraseFile = None,
    withdraw_older: WithdrawOlder = False,
    output: Printed = Format.TABLE,
) -> None:
    """Upload a bundle, signing it first where that is needed. Safe to repeat."""
    session = Session.of(ctx, output)
    opened = open_signers(session.contexts, key, signer, signers, passphrase_file)
    item = publish_bundle(session, open_whole(file), opened, withdraw_older=withdraw_older)
    session.output.done(
        item,
        f"{file} is published{' already' if item['already'] else ''}",
        "manifest",
        f"beamfleet rollout start {item['product']} {item['version']} -l key=value",
    )


@app.command("list", epilog=examples("beamfleet bundle list", "beamfleet bundle list --product sensor-gateway -o json"))
def list_bundles(
    ctx: typer.Context,
    product: Annotated[str, typer.Option("--product", help="Only of this product.")] = "",
    version: Annotated[str, typer.Option("--version", help="Only of this version.")] = "",
    output: Printed = Format.TABLE,
) -> None:
    """List published bundles."""
    session = Session.of(ctx, output)
    bundles = list(session.client.pages("/bundles", {"product": product, "version": version}))
    session.output.items(
        bundles, _COLUMNS, "manifest", "no bundle yet; `beamfleet push TARBALL -l key=value` publishes one"
    )


def open_whole(path: Path) -> "Bundle":
    """The bundle in a file that somebody gave us, after reading all of it; errors `bundle.*`, `manifest.*`."""
    from beamfleet_bundles.bundle import Bundle

    bundle = Bundle.open(path)
    bundle.verify()
    return bundle


def publish_bundle(
    session: Session, bundle: "Bundle", signers: "Sequence[Signer]" = (), *, withdraw_older: bool = False
) -> Item:
    """Publish with the signature that the bundle has, or a new one by `signers` or the keyring's key."""
    from beamfleet_server.cli.publishing import Publishing
    from beamfleet_server.cli.signing import Signing

    publishing = Publishing(
        session.client,
        Signing(session.client, session.context.keys, signers=signers, withdraw_older=withdraw_older),
        lambda path: open_with_progress(path, session.output.stderr),
    )
    with tempfile.TemporaryDirectory(prefix="beamfleet-") as scratch:
        way = publishing.publish_signed if bundle.metadata else publishing.publish
        return way(bundle, Path(scratch) / "signed.bundle")


def _signature(session: Session, bundle: "Bundle") -> dict[str, Any]:
    """{state: unsigned|unchecked|trusted|untrusted, reason, counter}, held against the pinned root if there is one."""
    if not bundle.metadata:
        return {"state": "unsigned", "reason": "", "counter": None}
    root = Keyring(session.context.keys).pinned() if session.contexts.all() else None
    if root is None:
        return {"state": "unchecked", "reason": "no root is pinned here", "counter": None}
    from beamfleet_bundles.offline import verify_offline

    manifest = bundle.manifest
    path = target_path(manifest.product, manifest.version, manifest.target)
    try:
        proven = verify_offline(bundle.metadata, bundle.manifest_bytes, path, root, datetime.now(UTC))
    except BundleError as error:
        return {"state": "untrusted", "reason": str(error), "counter": None}
    return {"state": "trusted", "reason": "", "counter": proven.facts.custom.counter}


def _builtins(manifest: object) -> dict[str, Any]:
    import msgspec

    content: dict[str, Any] = msgspec.to_builtins(manifest)
    return content


def _facts(bundle: "Bundle", item: Item) -> Sequence[tuple[str, object]]:
    from msgspec import UNSET

    manifest, signature = bundle.manifest, item["signature"]
    requires, launch = manifest.requires, manifest.launch
    release = manifest.release
    counter = f", release {signature['counter']}" if signature["counter"] else ""
    return [
        ("bundle", bundle.path),
        ("product", manifest.product),
        ("version", manifest.version),
        ("target", manifest.target),
        ("manifest", item["manifest"]),
        ("signature", f"{signature['state']}{counter}" + (f": {signature['reason']}" if signature["reason"] else "")),
        ("metadata", ", ".join(item["metadata"])),
        ("release", f"{release.name} ({release.kind}), OTP {release.otp}, ERTS {release.erts}"),
        ("needs", " ".join([requires.machine, requires.libc, requires.libc_version, *requires.libraries])),
        ("distribution", launch.distribution),
        *show_probes(launch.probes),
        ("environment", " ".join(launch.environment)),
        ("data schema", "" if launch.data_schema is UNSET else launch.data_schema),
        ("size", f"{len(manifest.files)} files, {show_bytes(manifest.unpacked)}, pack {show_bytes(bundle.pack_size)}"),
        ("applications", " ".join(f"{app.name}-{app.version}" for app in release.applications)),
    ]


_COLUMNS = (
    Column("PRODUCT", lambda bundle: bundle["product"]),
    Column("VERSION", lambda bundle: bundle["version"]),
    Column("TARGET", lambda bundle: bundle["target"]),
    Column("COUNTER", lambda bundle: bundle["counter"], right=True),
    Column("PACK", lambda bundle: show_bytes(bundle["size"]), right=True),
    Column("UNPACKED", lambda bundle: show_bytes(bundle["unpacked"]), right=True),
    Column("MANIFEST", lambda bundle: bundle["manifest"][:32]),
    Column("CREATED", lambda bundle: show_time(bundle["created"])),
)
_FILES = (
    Column("MODE", lambda entry: entry.get("mode", "link")),
    Column("SIZE", lambda entry: entry.get("size"), right=True),
    Column("PATH", lambda entry: entry["path"] + (f" -> {entry['target']}" if "target" in entry else "")),
)
