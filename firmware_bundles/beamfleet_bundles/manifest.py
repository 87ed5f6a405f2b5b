"""Owns the manifest: the signed list of file hashes that a release is, with what it needs and how it starts.

Canonical JSON; its SHA-256 names the release's content and its slot. `decode` holds hostile bytes to a closed schema
and to every rule of FORMAT.md, so whoever has a `Manifest` from it may follow its paths blindly. Never opens a file.
"""

import hashlib
import string
from collections.abc import Iterable
from itertools import pairwise
from typing import Literal

import msgspec

from beamfleet_bundles import canonical, launch, names, paths
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.launch import Kind, Launch

MAX_SIZE = 8 << 20
"""Largest manifest, in bytes."""
MAX_ENTRIES = 20_000
MAX_UNPACKED = 4 << 30
"""Most bytes of content of one release."""
MAX_LIBRARIES = 512
MAX_APPLICATIONS = 2_000
MIN_AGENT = 1
"""What every manifest asks of an agent, in generations."""
MIN_AGENT_SCHEMA = 2
"""What a manifest with `launch.data_schema` asks."""
MIN_AGENT_PROBES = 3
"""What a manifest with a startup, readiness or liveness probe or with `confirm` asks; also the generation of the agents
of this version."""

_HEX = frozenset("0123456789abcdef")
_WORD = frozenset(string.ascii_letters + string.digits + "_.+~@-")


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False, tag_field="type", tag="file"):
    """A regular file: `size` in bytes, `sha256` as 64 lower-case hex digits of its content."""

    path: str
    mode: Literal["0644", "0755"]
    size: int
    sha256: str


class LinkEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False, tag_field="type", tag="link"):
    """A symbolic link; `target` is relative to the link's directory and stays inside the release."""

    path: str
    target: str


Entry = FileEntry | LinkEntry


class Application(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An OTP application of the release and how the boot script starts it."""

    name: str
    version: str
    start: Literal["permanent", "transient", "temporary", "load", "none"]


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the release's own `.rel` file says; `otp` is the major version that its ERTS belongs to."""

    name: str
    kind: Kind
    erts: str
    otp: int
    applications: tuple[Application, ...]


class Requires(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device must have: checked before the download, not after the crash."""

    machine: str
    """As `uname -m` says it."""
    libc: Literal["glibc", "musl"]
    libc_version: str
    """Lowest version of glibc that has every symbol used, such as `2.34`; empty for musl."""
    libraries: tuple[str, ...]
    """Names of shared libraries that the release uses and does not ship, sorted."""
    min_agent: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A release for one target."""

    v: Literal[1] = 1
    product: str
    version: str
    target: str
    """As `names.Target` spells it."""
    release: Release
    requires: Requires
    launch: Launch
    entries: tuple[Entry, ...]
    """Sorted by path."""

    def encode(self) -> bytes:
        """The canonical bytes, which are hashed and signed."""
        return canonical.encode(msgspec.to_builtins(self))

    @property
    def sha256(self) -> str:
        """64 hex digits; computed on each use."""
        return hashlib.sha256(self.encode()).hexdigest()

    @property
    def id(self) -> str:
        """The slot's name: the first 32 hex digits of `sha256`."""
        return self.sha256[:32]

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """The entries that have content, in the order of the pack."""
        return tuple(entry for entry in self.entries if isinstance(entry, FileEntry))

    @property
    def unpacked(self) -> int:
        """Bytes of content of all files."""
        return sum(entry.size for entry in self.files)

    def check(self) -> None:
        """Hold every value to its rule; errors `manifest.*`, `launch.*`, `name.*`."""
        names.check_product(self.product)
        names.check_version(self.version)
        target = names.Target.parse(self.target)
        if (target.arch, target.libc, target.otp) != (self.requires.machine, self.requires.libc, self.release.otp):
            raise BundleError("manifest.target", f"the manifest for {self.target} requires another target")
        self._check_texts()
        self._check_entries()
        self._check_launch()

    def _check_texts(self) -> None:
        release, requires = self.release, self.requires
        if len(requires.libraries) > MAX_LIBRARIES or len(release.applications) > MAX_APPLICATIONS:
            raise BundleError("manifest.too_large", "the manifest names too many libraries or applications")
        texts = [release.name, release.erts, requires.machine, *requires.libraries]
        texts += [text for application in release.applications for text in (application.name, application.version)]
        if requires.libc_version:
            texts.append(requires.libc_version)
        if not all(0 < len(text) <= 255 and _WORD.issuperset(text) for text in texts):
            raise BundleError("manifest.value", "the manifest has a name or version that is not one")
        if tuple(sorted(set(requires.libraries))) != requires.libraries:
            raise BundleError("manifest.order", "the manifest's libraries are not sorted")
        application_names = [application.name for application in release.applications]
        if len(set(application_names)) != len(application_names):
            raise BundleError("manifest.duplicate", "the manifest names an application twice")
        if not 1 <= requires.min_agent <= canonical.MAX_INTEGER:
            raise BundleError("manifest.value", "the manifest asks for no possible agent")

    def _check_entries(self) -> None:
        if len(self.entries) > MAX_ENTRIES:
            raise BundleError("manifest.too_large", f"the manifest has more than {MAX_ENTRIES} entries")
        _check_order([entry.path for entry in self.entries])
        for entry in self.entries:
            if entry.path.startswith(".beamfleet/") and entry.path != launch.PATH:
                raise BundleError("manifest.path", f"the path {entry.path} is beamfleet's own")
        files = {entry.path for entry in self.files}
        links = {entry.path: entry.target for entry in self.entries if isinstance(entry, LinkEntry)}
        folders = paths.directories(entry.path for entry in self.entries)
        if clash := next((path for path in folders if path in files or path in links), None):
            raise BundleError("manifest.conflict", f"the manifest has {clash} as a directory and as something else")
        for path in links:
            if problem := paths.link_problem(path, links, files, folders):
                raise BundleError("manifest.link", f"the link {path} {problem}")
        unpacked = 0
        for entry in self.files:
            if not 0 <= entry.size <= MAX_UNPACKED or (unpacked := unpacked + entry.size) > MAX_UNPACKED:
                raise BundleError("manifest.too_large", f"the manifest's files are larger than {MAX_UNPACKED} bytes")
            if len(entry.sha256) != 64 or not _HEX.issuperset(entry.sha256):
                raise BundleError("manifest.value", f"the manifest has no SHA-256 for {entry.path}")

    def _check_launch(self) -> None:
        start, release = self.launch, self.release
        content = start.encode()
        if (start.kind, start.name, start.erts) != (release.kind, release.name, release.erts):
            raise BundleError("manifest.launch", "the launch description is that of another release")
        files = {entry.path: entry for entry in self.files}
        for path in start.paths:
            if path not in files:
                raise BundleError("manifest.launch", f"the release has no file {path} to start with")
        executables = [path for path in start.paths if path.endswith("/bin/erlexec")]
        for path in (*executables, *start.probes.executables):
            if files[path].mode != "0755":
                raise BundleError("manifest.launch", f"{path} is not executable")
        folders = paths.directories(files)
        for path in start.boot_vars.values():
            if path not in folders:
                raise BundleError("manifest.launch", f"the release has no directory {path} to start with")
        entry = files.get(launch.PATH)
        if entry is None or (entry.size, entry.sha256) != (len(content), hashlib.sha256(content).hexdigest()):
            raise BundleError("manifest.launch", f"{launch.PATH} does not say what the manifest's launch object says")


def decode(data: bytes) -> Manifest:
    """The manifest that `data` spells, checked whole; errors `manifest.*`, `launch.*`, `name.*`, `canonical.*`."""
    if len(data) > MAX_SIZE:
        raise BundleError("manifest.too_large", f"a manifest of {len(data)} bytes is larger than {MAX_SIZE}")
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.ValidationError as error:
        raise BundleError("manifest.schema", f"the manifest is not one: {error}") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BundleError("manifest.syntax", f"the manifest is not JSON: {error}") from None
    manifest.check()
    if manifest.encode() != data:
        raise BundleError("manifest.form", "the manifest is not in canonical form")
    return manifest


def _check_order(found: Iterable[str]) -> None:
    ordered = list(found)
    for path in ordered:
        if problem := paths.path_problem(path):
            raise BundleError("manifest.path", f"the path {path[:80]!r} {problem}")
    for before, after in pairwise(ordered):
        if before == after:
            raise BundleError("manifest.duplicate", f"the manifest has {before} twice")
        if before > after:
            raise BundleError("manifest.order", f"the manifest has {after} after {before}")
