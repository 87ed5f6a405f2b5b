"""Owns `bundle build`: from a release as relx, mix or systools pack it to an unsigned `.bundle`.

Order: read the archive into a tree, detect the release, work out its start, normalise its .beam files, read what its
ELF files need, write manifest and pack. The same input gives the same bytes. Temporary files go whatever happens.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import msgspec

from beamfleet_bundles import launch as launches
from beamfleet_bundles import manifest as manifests
from beamfleet_bundles import names
from beamfleet_bundles.build import archive, beams, elf, release, start
from beamfleet_bundles.build.tree import Tree
from beamfleet_bundles.bundle import file_name, write_bundle
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.launch import Distribution, Launch
from beamfleet_bundles.manifest import Entry, FileEntry, LinkEntry, Manifest
from beamfleet_bundles.pack import write_pack
from beamfleet_bundles.probes import Probes

Progress = Callable[[str, int, int], None]
"""Called with "read" or "pack", the bytes done and the bytes in all; 0 of 0 where they are not known."""


@dataclass(frozen=True, slots=True)
class Built:
    """A bundle, not yet signed, and what the user should know about it."""

    path: Path
    manifest: Manifest
    notices: list[str]


def build(
    source: Path,
    *,
    out_dir: Path,
    product: str | None = None,
    version: str | None = None,
    hardware: str | None = None,
    distribution: Distribution = "none",
    probes: Probes | None = None,
    data_schema: int | None = None,
    limits: archive.Limits | None = None,
    progress: Progress | None = None,
) -> Built:
    """Build the bundle of the release `source`, a tarball or a directory, into `out_dir`.

    Product and version are those of the release unless given; `data_schema` None states none. Errors: `archive.*`,
    `release.*`, `launch.*`, `name.*`, `manifest.*`, `bundle.*`; nothing is left behind then.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="beamfleet-build-") as folder:
            spool, packed = Path(folder, "spool"), Path(folder, "pack")
            spool.mkdir()
            tree, notices = Tree(spool), list[str]()
            report = progress or _silent
            report("read", 0, 0)
            archive.read(source, tree, limits or archive.Limits())
            notices += _unwrap(tree)
            found = release.detect(tree)
            notices += _leave_out_tarballs(tree)
            tree.check_links()
            start_facts, more = start.prepare(tree, found)
            launch = msgspec.structs.replace(
                start_facts,
                distribution=distribution,
                probes=probes or Probes(),
                data_schema=msgspec.UNSET if data_schema is None else data_schema,
            )
            _add_launch(tree, launch)
            notices += more + beams.normalise(tree)
            requires = elf.needs(tree, f"erts-{found.release.erts}/bin/beam.smp")
            requires = msgspec.structs.replace(requires, min_agent=_generation(launch))
            manifest = Manifest(
                product=_product(found.release.name, product),
                version=_version(found.version, version),
                target=str(names.Target(requires.machine, requires.libc, found.release.otp, hardware)),
                release=found.release,
                requires=requires,
                launch=launch,
                entries=_entries(tree),
            )
            manifest_bytes = manifest.encode()
            manifests.decode(manifest_bytes)
            _write_pack(tree, manifest, packed, report)
            path = out_dir / file_name(manifest)
            out_dir.mkdir(parents=True, exist_ok=True)
            with packed.open("rb") as pack_file:
                write_bundle(path, manifest_bytes, pack_file, {})
    except OSError as error:
        archive.check_spool(error)
        raise BundleError(
            "bundle.io", f"{error.filename or out_dir}: {error.strerror}", "check space and rights"
        ) from error
    return Built(path, manifest, notices)


def _silent(_phase: str, _done: int, _total: int) -> None:
    pass


def _unwrap(tree: Tree) -> list[str]:
    """Take a release that was packed with its directory out of that directory."""
    tops = {path.split("/")[0] for path in (*tree.files, *tree.links)}
    if len(tops) != 1 or not any(tree.below(f"{(top := tops.pop())}/releases")):
        return []
    tree.rebase(top)
    return [f"the release lies in the directory {top} of the archive, which is left out"]


def _leave_out_tarballs(tree: Tree) -> list[str]:
    """`rebar3 tar` and `mix release` leave the tarball in or beside the release's directory."""
    paths = [path for path in sorted(tree.files) if "/" not in path and path.endswith((".tar.gz", ".tar"))]
    for path in paths:
        del tree.files[path]
    return [f"{path} is left out: it is a tarball in the release's directory" for path in paths]


def _add_launch(tree: Tree, launch: Launch) -> None:
    launch.check()
    for command in launch.probes.executables:
        if not (command in tree.files and tree.files[command].executable):
            raise BundleError(
                "launch.probe", f"the release has no executable file {command}", "give its path in the release"
            )
    tree.replace(launches.PATH, launch.encode(), executable=False)


def _generation(launch: Launch) -> int:
    """The oldest agent that understands this start."""
    if launch.probes.need_agent:
        return manifests.MIN_AGENT_PROBES
    return manifests.MIN_AGENT if launch.data_schema is msgspec.UNSET else manifests.MIN_AGENT_SCHEMA


def _product(name: str, given: str | None) -> str:
    product = given if given is not None else name.lower().replace("_", "-").replace(".", "-")
    try:
        return names.check_product(product)
    except BundleError as error:
        if given is not None:
            raise
        raise BundleError(
            error.code, f"the release's name {name} makes no product name", "give one with --product"
        ) from None


def _version(of_release: str, given: str | None) -> str:
    try:
        return names.check_version(of_release if given is None else given)
    except BundleError as error:
        if given is not None:
            raise
        raise BundleError(
            error.code, f"the release's version {of_release} cannot be used", "give one with --version"
        ) from None


def _entries(tree: Tree) -> tuple[Entry, ...]:
    entries: list[Entry] = [
        FileEntry(path, "0755" if file.executable else "0644", file.size, tree.sha256(path))
        for path, file in tree.files.items()
    ]
    entries += [LinkEntry(path, target) for path, target in tree.links.items()]
    return tuple(sorted(entries, key=lambda entry: entry.path))


def _write_pack(tree: Tree, manifest: Manifest, packed: Path, progress: Progress) -> None:
    done, total = 0, manifest.unpacked

    def open_file(entry: FileEntry) -> BufferedReader:
        nonlocal done
        done += entry.size
        progress("pack", done, total)
        return tree.open(entry.path)

    with packed.open("wb") as out:
        write_pack(manifest, open_file, out)
