"""Owns trust in a `.bundle` that comes without a network: the metadata inside it, held against what is trusted already.

    trusted_root(dir, embedded)   the newest root that this device has trusted
    verify_offline(...)           root -> targets -> product -> facts -> manifest, all from the file; pure
    pin(dir, verified)            what was trusted stays trusted: neither a file nor the network can go back behind it

There is no snapshot and no timestamp in the file: freshness is the installer's affair, order is the counter's and the
floor's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tuf.api.metadata import Root, Targets

from beamfleet_bundles import chain, durable
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.facts import Facts
from beamfleet_bundles.highwater import HighWater
from beamfleet_bundles.names import parse_target_path


@dataclass(frozen=True, slots=True)
class Offline:
    """What a bundle's own metadata proves: the facts, and the newer roots and the targets that they rest on."""

    facts: Facts
    root: Root
    new_roots: tuple[bytes, ...]
    targets: bytes


def trusted_root(metadata_dir: Path, embedded: bytes) -> bytes:
    """The newest root that follows from `embedded` through the roots kept in `metadata_dir`; error `trust.rollback`."""
    newest, root = embedded, chain.verify_root(embedded, None)
    while True:
        try:
            data = (metadata_dir / "root_history" / f"{root.version + 1}.root.json").read_bytes()
            root, newest = chain.verify_root(data, root), data
        except (OSError, BundleError):
            HighWater.load(metadata_dir).check_root(root)
            return newest


def verify_offline(
    metadata: Mapping[str, bytes], manifest: bytes, path: str, root: bytes, now: datetime, known: Sequence[bytes] = ()
) -> Offline:
    """The facts of the manifest `path`, whose bytes are `manifest`, by the metadata of a bundle.

    metadata: by name and version, `root.N`, `targets.N`, `PRODUCT.N`; other names are not looked at, roots that follow
    on `root` are taken in order.
    root: the newest trusted root. known: targets metadata that the device holds already; where it is newer than the
    bundle's, it decides who may sign for the product. Errors: `trust.*`, `name.*`.
    """
    product, _, _ = parse_target_path(path)
    if not metadata:
        raise BundleError("trust.incomplete", "the bundle is not signed", "sign it: beamfleet bundle sign FILE")
    documents = _by_version(metadata)
    current, new_roots = chain.verify_root(root, None), []
    while data := documents.get(Root.type, {}).get(current.version + 1):
        current = chain.verify_root(data, current)
        new_roots.append(data)
    chain.check_fresh(current, Root.type, now)
    targets_bytes, targets = _newest_targets(_only(documents, Targets.type), known, current)
    chain.check_fresh(targets, Targets.type, now)
    metadata_of_product = chain.verify_product(_only(documents, product), product, targets)
    chain.check_fresh(metadata_of_product, product, now)
    facts = chain.product_facts(product, metadata_of_product, targets).get(path)
    if facts is None:
        raise BundleError("trust.unknown_target", f"the bundle's metadata does not sign {path}", "sign the bundle")
    facts.verify(manifest)
    return Offline(facts, current, tuple(new_roots), targets_bytes)


def known_targets(metadata_dir: Path) -> tuple[bytes, ...]:
    """The targets metadata kept in an updater's directory, by installations and by refreshes; for `verify_offline`."""
    pinned = HighWater.load(metadata_dir).targets
    try:
        refreshed = (metadata_dir / "targets.json").read_bytes()
    except OSError:
        refreshed = b""
    return tuple(data for data in (pinned, refreshed) if data)


def pin(metadata_dir: Path, verified: Offline) -> None:
    """Makes what `verified` rests on durable in an updater's directory; error `trust.storage`."""
    with chain.translated("the trusted metadata"):
        history = metadata_dir / "root_history"
        history.mkdir(parents=True, exist_ok=True)
        first = verified.root.version - len(verified.new_roots) + 1
        for version, data in enumerate(verified.new_roots, first):
            durable.replace(history / f"{version}.root.json", data)
        HighWater.load(metadata_dir).pinned(verified.root, verified.targets).store(metadata_dir)


def _by_version(metadata: Mapping[str, bytes]) -> dict[str, dict[int, bytes]]:
    documents: dict[str, dict[int, bytes]] = {}
    for name, data in metadata.items():
        role, _, number = name.rpartition(".")
        if role and number.isascii() and number.isdigit() and len(number) <= 16:
            documents.setdefault(role, {})[int(number)] = data
    return documents


def _only(documents: Mapping[str, Mapping[int, bytes]], role: str) -> bytes:
    found = documents.get(role, {})
    if len(found) != 1:
        raise BundleError(
            "trust.incomplete", f"the bundle has {len(found) or 'no'} metadata of {role}", "sign the bundle again"
        )
    return next(iter(found.values()))


def _newest_targets(offered: bytes, known: Sequence[bytes], root: Root) -> tuple[bytes, Targets]:
    newest, targets = offered, chain.verify_targets(offered, root)
    for data in known:
        try:
            candidate = chain.verify_targets(data, root)
        except BundleError:  # torn, or the root no longer vouches for it: then it does not bind, see highwater
            continue
        if candidate.version > targets.version:
            newest, targets = data, candidate
    return newest, targets
