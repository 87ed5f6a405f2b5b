"""What `bundle build` and `push` share: the options of a build, the build itself, and a bundle in words. No server."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from beamfleet_server.cli.output import Output
from beamfleet_server.cli.progress import work_on
from beamfleet_server.cli.quantities import show_bytes

if TYPE_CHECKING:
    from beamfleet_bundles.bundle import Bundle
    from beamfleet_bundles.probes import Probes


class Distribution(Enum):
    """Whether the release's node may be spoken to by others on the same device."""

    NONE = "none"
    LOOPBACK = "loopback"


Source = Annotated[
    Path, typer.Argument(metavar="TARBALL|DIR", help="What rebar3 tar, mix release or systools:make_tar wrote.")
]
Product = Annotated[str | None, typer.Option("--product", metavar="NAME", help="Else the release's name, with dashes.")]
Version = Annotated[str | None, typer.Option("--version", metavar="VERSION", help="Else the release's own version.")]
Hardware = Annotated[str | None, typer.Option("--hardware", metavar="BOARD", help="Only for this board.")]
Distributed = Annotated[Distribution, typer.Option("--distribution", help="Erlang distribution on the device.")]
ProbeHttp = Annotated[
    str | None, typer.Option("--probe-http", metavar="PORT/PATH", help="Must answer 200 to 299 on 127.0.0.1.")
]
ProbeCommand = Annotated[
    str | None,
    typer.Option("--probe-command", metavar="'PATH ARG...'", help="A program of the release that must exit 0."),
]
ProbeTimeout = Annotated[
    int, typer.Option("--probe-timeout-s", metavar="N", min=1, max=60, help="Seconds that a probe may take.")
]
ProbeStartup = Annotated[
    list[str] | None,
    typer.Option("--probe-startup", metavar="WORDS", help="Must succeed once; until then the other two are not asked."),
]
ProbeReadiness = Annotated[
    list[str] | None,
    typer.Option("--probe-readiness", metavar="WORDS", help="While it fails the release is not ready."),
]
ProbeLiveness = Annotated[
    list[str] | None,
    typer.Option(
        "--probe-liveness",
        metavar="WORDS",
        help="When it fails the release is restarted: 'http=8080/health,period_s=5'; or tcp=, command=, erlang=.",
    ),
]
Confirm = Annotated[
    bool, typer.Option("--confirm", help="A trial also waits until the release calls beamfleet_link:confirm/0.")
]
DataSchema = Annotated[
    int | None,
    typer.Option(
        "--data-schema", metavar="N", min=0, help="Layout of the data; a rollback to a lower one needs --force."
    ),
]


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What `build` and `push` can say about a bundle beside its source."""

    product: Product = None
    version: Version = None
    hardware: Hardware = None
    distribution: Distributed = Distribution.NONE
    probe_http: ProbeHttp = None
    probe_command: ProbeCommand = None
    probe_timeout_s: ProbeTimeout = 5
    probe_startup: ProbeStartup = None
    probe_readiness: ProbeReadiness = None
    probe_liveness: ProbeLiveness = None
    confirm: Confirm = False
    data_schema: DataSchema = None

    @property
    def probes(self) -> "Probes":
        """What is asked of the release; error `launch.probe`."""
        from beamfleet_bundles.errors import BundleError
        from beamfleet_bundles.probes import KINDS, Probes, parse
        from msgspec import UNSET

        given = dict(zip(KINDS, (self.probe_startup, self.probe_readiness, self.probe_liveness), strict=True))
        for kind, words in given.items():
            if len(words or ()) > 1:
                what = f"--probe-{kind} is given {len(words or ())} times"
                raise BundleError("launch.probe", what, "a release has one of each kind; write its words in one")
        return Probes(
            self.probe_http,
            self.probe_command,
            self.probe_timeout_s,
            **{kind: parse(kind, words[0]) for kind, words in given.items() if words},
            confirm=True if self.confirm else UNSET,
        )

    def build(self, source: Path, out: Path, output: Output) -> "tuple[Bundle, list[str]]":
        """Build a bundle into a directory, telling people what was found; the bundle and the builder's notices."""
        from beamfleet_bundles.build.builder import build as run
        from beamfleet_bundles.bundle import Bundle

        probes = self.probes
        with work_on(output.stderr) as progress:
            built = run(
                source,
                out_dir=out,
                product=self.product,
                version=self.version,
                hardware=self.hardware,
                distribution="loopback" if self.distribution is Distribution.LOOPBACK else "none",
                probes=probes,
                data_schema=self.data_schema,
                progress=progress,
            )
        for notice in built.notices:
            output.note(f"notice: {notice}")
        bundle = Bundle.open(built.path)
        manifest = bundle.manifest
        output.note(
            f"{manifest.product} {manifest.version} for {manifest.target}: {manifest.release.kind} release, "
            f"{len(manifest.files)} files, {show_bytes(manifest.unpacked)}, pack {show_bytes(bundle.pack_size)}"
        )
        return bundle, list(built.notices)


def describe(bundle: "Bundle") -> dict[str, Any]:
    """A bundle as scripts see it; sizes in bytes."""
    manifest = bundle.manifest
    release = manifest.release
    return {
        "path": str(bundle.path),
        "product": manifest.product,
        "version": manifest.version,
        "target": manifest.target,
        "manifest": manifest.sha256,
        "size": bundle.pack_size,
        "unpacked": manifest.unpacked,
        "files": len(manifest.files),
        "release": {"name": release.name, "kind": release.kind, "erts": release.erts, "otp": release.otp},
    }


def show_probes(probes: "Probes") -> list[tuple[str, str]]:
    """What is asked of a release, one line each, as people read it."""
    from msgspec import to_builtins

    gate = "; ".join(word for word in (f"HTTP {probes.http}" if probes.http else "", probes.command or "") if word)
    named = [
        (f"{kind} probe", ", ".join(f"{key}={value}" for key, value in to_builtins(probe).items()))
        for kind, probe in probes.named.items()
    ]
    waits = [("confirm", "a trial waits until the release confirms itself")] if probes.confirm is True else []
    return [("probes", gate), *named, *waits]
