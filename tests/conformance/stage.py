"""A TUF repository of any shape, served over loopback HTTP, and a client that checks it: the public suite's two sides.

Nothing of beamfleet's own shape is in here: other keys, other roles, other paths. `Play` is one repository: change its
`signed` objects, `publish` roles, look at what was `asked`. What it serves lies in `served`, where a test may lie.
"""

import hashlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any
from urllib.parse import quote, unquote

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)

TUF_CLIENT = Path(__file__).with_name("tuf-client")
TOP = ("root", "timestamp", "snapshot", "targets")
ALL = ("root", "targets", "snapshot", "timestamp")
ONLINE = ("snapshot", "timestamp")
CONTENT = ("targets", "snapshot", "timestamp")


def in_days(days: float) -> datetime:
    """That far from now, in whole seconds, as metadata has them."""
    return datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)


class Play:
    """One repository, at `address`/metadata/ and `address`/targets/."""

    def __init__(self, address: str) -> None:
        self.metadata_url, self.targets_url = f"{address}/metadata", f"{address}/targets"
        self.served: dict[str, bytes] = {}
        """By path, percent-encoding undone: `metadata/2.root.json`."""
        self.status: dict[str, int] = {}
        """Paths that are answered with this status and no content."""
        self.requests: list[str] = []
        self.with_hashes = False
        """Whether snapshot and timestamp name length and hash of what they list."""
        self.hash_prefix = True
        self.versions: dict[str, int] = {}
        """Published versions."""
        good_for = in_days(30)
        self.signed: dict[str, Any] = {
            "root": Root(expires=good_for, consistent_snapshot=True),
            "timestamp": Timestamp(expires=good_for),
            "snapshot": Snapshot(expires=good_for),
            "targets": Targets(expires=good_for),
        }
        self.signers: dict[str, list[CryptoSigner]] = {role: [] for role in TOP}
        for role in TOP:
            self.new_key(role)
        self.publish(*ALL)

    # --- what is in it

    @property
    def root(self) -> Root:
        root: Root = self.signed["root"]
        return root

    def new_key(self, role: str, signer: CryptoSigner | None = None, delegator: str = "root") -> CryptoSigner:
        """One more key for `role`, which signs from now on."""
        signer = signer or CryptoSigner.generate_ed25519()
        self.signed[delegator].add_key(signer.public_key, role)
        self.signers[role].append(signer)
        return signer

    def new_keys_only(self, role: str) -> None:
        """As many new keys as the threshold, and none of the old ones."""
        self.root.roles[role].keyids.clear()
        self.signers[role].clear()
        for _ in range(self.root.roles[role].threshold):
            self.new_key(role)

    def delegate(self, delegator: str, name: str, paths: list[str] | None = None, **more: Any) -> Targets:
        """`delegator` delegates to `name`, with a key of its own, below all earlier delegations."""
        parent: Targets = self.signed[delegator]
        if parent.delegations is None:
            parent.delegations = Delegations({}, {})
        assert parent.delegations.roles is not None
        wanted: dict[str, Any] = {"threshold": 1, "terminating": False, **more}
        if "path_hash_prefixes" not in wanted:
            wanted["paths"] = ["*"] if paths is None else paths
        parent.delegations.roles[name] = DelegatedRole(name, [], **wanted)
        self.signed.setdefault(name, Targets(expires=in_days(30)))
        self.signers.setdefault(name, [])
        if self.signers[name]:
            parent.add_key(self.signers[name][0].public_key, name)
        else:
            self.new_key(name, delegator=delegator)
        signed: Targets = self.signed[name]
        return signed

    def delegate_bins(self, bits: int, prefix: str) -> None:
        """The top role delegates to 2^bits roles by the hash of the path."""
        signer = CryptoSigner.generate_ed25519()
        bins = SuccinctRoles([signer.public_key.keyid], 1, bits, prefix)
        self.signed["targets"].delegations = Delegations({signer.public_key.keyid: signer.public_key}, None, bins)
        for name in bins.get_roles():
            self.signed[name], self.signers[name] = Targets(expires=in_days(30)), [signer]

    def add(self, role: str, path: str, data: bytes, hashes: tuple[str, ...] = ("sha256",)) -> TargetFile:
        """`role` signs `data` as `path`, and it is served."""
        target = TargetFile.from_data(path, data, list(hashes))
        self.signed[role].targets[path] = target
        folder, slash, name = path.rpartition("/")
        for digest in target.hashes.values():
            self.served[f"targets/{folder}{slash}{digest}.{name}"] = data
        self.served[f"targets/{path}"] = data
        return target

    # --- what it serves

    def publish(self, *roles: str) -> None:
        """The next versions of `roles`, signed by all their `signers`, in this order."""
        for role in roles:
            signed = self.signed[role]
            if role in self.versions:
                signed.version += 1
            self.put(role, self.sign(role))

    def put(self, role: str, data: bytes, version: int | None = None) -> None:
        """Serves `data` as what was published last of `role`; snapshot and timestamp will name it."""
        version = version or self.signed[role].version
        self.versions[role] = version
        self.served[self.place(role, version)] = data
        digest = {"sha256": hashlib.sha256(data).hexdigest()}
        meta = MetaFile(version, len(data), digest) if self.with_hashes else MetaFile(version)
        if role == "snapshot":
            self.signed["timestamp"].snapshot_meta = meta
        elif role not in ("root", "timestamp"):
            self.signed["snapshot"].meta[f"{role}.json"] = meta

    def sign(self, role: str) -> bytes:
        """The bytes of `role` as it is now."""
        document: Metadata[Any] = Metadata(self.signed[role])
        for signer in self.signers[role]:
            document.sign(signer, append=True)
        return document.to_bytes()

    def place(self, role: str, version: int) -> str:
        """Where this version of `role` is served."""
        versioned = role == "root" or (role != "timestamp" and self.root.consistent_snapshot)
        return f"metadata/{version}.{role}.json" if versioned else f"metadata/{role}.json"

    def current(self, role: str) -> bytes:
        """What was published last."""
        return self.served[self.place(role, self.versions[role])]

    def restart(self, role: str, version: int = 1) -> None:
        """`role` forgets its versions; the next one that is published is `version`."""
        self.signed[role].version = version
        del self.versions[role]

    @property
    def asked(self) -> list[str]:
        """The metadata that was asked for since the last look, still encoded: `2.root`, `timestamp`."""
        paths, self.requests = self.requests, []
        return [path.removeprefix("metadata/").removesuffix(".json") for path in paths if path.startswith("metadata/")]

    def answer(self, path: str) -> tuple[int, bytes]:
        """Status and content for a request."""
        self.requests.append(path)
        place = unquote(path)
        if place in self.status:
            return self.status[place], b""
        if place not in self.served:
            return 404, b"there is no such thing"
        return 200, self.served[place]


class Client:
    """The client in a directory of its own. In this process, unless a test wants the program itself."""

    def __init__(self, directory: Path, program: ModuleType) -> None:
        self.metadata, self.targets, self._directory = directory / "metadata", directory / "targets", directory
        self._program = program
        self.metadata.mkdir(parents=True)

    def init(self, play: Play, root: bytes | None = None) -> int:
        """Trust the repository's newest root, or `root`."""
        given = self._directory / "given-root.json"
        given.write_bytes(play.current("root") if root is None else root)
        return self.run("--metadata-dir", str(self.metadata), "init", str(given))

    def refresh(self, play: Play, now: datetime | None = None) -> int:
        """One check, at another time than now if that is given."""
        return self.run("--metadata-url", play.metadata_url, "--metadata-dir", str(self.metadata), "refresh", now=now)

    def download(self, play: Play, path: str, now: datetime | None = None) -> int:
        """One check and one target."""
        return self.run(
            "--metadata-url", play.metadata_url, "--metadata-dir", str(self.metadata), "--target-name", path,
            "--target-base-url", play.targets_url, "--target-dir", str(self.targets), "download", now=now,
        )  # fmt: skip

    def run(self, *words: str, now: datetime | None = None) -> int:
        """The exit code of this command line."""
        code: int = self._program.main(words, lambda: now or datetime.now(UTC))
        return code

    def trusted(self) -> dict[str, int]:
        """The versions of what it holds, by role."""
        files = sorted(path for path in self.metadata.iterdir() if path.suffix == ".json")
        return {unquote(path.stem): Metadata.from_file(str(path)).signed.version for path in files}

    def holds(self, role: str) -> bytes:
        """What it holds of `role`, byte for byte."""
        return (self.metadata / f"{quote(role, '')}.json").read_bytes()

    def downloaded(self) -> list[bytes]:
        """What it has downloaded."""
        return sorted(path.read_bytes() for path in self.targets.rglob("*") if path.is_file())


def program() -> ModuleType:
    """`tuf-client` as a module."""
    loader = importlib.machinery.SourceFileLoader("tuf_client", str(TUF_CLIENT))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    keeps, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = keeps
    return module


class Stage:
    """A web server for any number of plays, each below its own name."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.plays: dict[str, Play] = {}

    def play(self) -> Play:
        """A new repository."""
        name = f"play-{len(self.plays)}"
        self.plays[name] = Play(f"{self.address}/{name}")
        return self.plays[name]


@contextmanager
def opened() -> Iterator[Stage]:
    """A stage whose web server runs."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, _, path = self.path.lstrip("/").partition("/")
            status, data = stage.plays[name].answer(path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name in the standard library)
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        server.daemon_threads = True
        stage = Stage(f"http://127.0.0.1:{server.server_address[1]}")
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield stage
        finally:
            server.shutdown()
            thread.join()
