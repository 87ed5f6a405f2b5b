"""Owns making signed metadata: new documents and new versions of old ones. Pure: signers, bytes and the time come in.

It signs what it is given and proves nothing about it; `publication` and `chain` check. The order of a release:
`add_release` where the product key is, on what `chain.verify_chain` accepted before, then `new_snapshot` and
`new_timestamp` on the server.

    root ── names the keys of ──► root, targets, snapshot, timestamp
    targets ── delegates ──► director (assign/*), PRODUCT (PRODUCT/*/*/*), terminating
    PRODUCT ── signs ──► PRODUCT/VERSION/TARGET/manifest with its facts
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
from securesystemslib.signer import Key, Signer
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Snapshot,
    T,
    TargetFile,
    Targets,
    Timestamp,
)

from beamfleet_bundles import chain, whereabouts
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.facts import Facts, describe, read_facts
from beamfleet_bundles.manifest import Manifest
from beamfleet_bundles.names import check_product
from beamfleet_bundles.whereabouts import Whereabouts

LIFETIMES = {
    "root": timedelta(days=730),
    "targets": timedelta(days=365),
    "product": timedelta(days=365),
    "snapshot": timedelta(days=30),
    "timestamp": timedelta(days=7),
}
"""How long a new version of a role's metadata is good for."""


@dataclass(frozen=True, slots=True)
class RoleKeys:
    """Who may sign for a role: public keys, and how many of them it takes."""

    keys: tuple[Key, ...]
    threshold: int = 1


def next_version(last: int, now: datetime, reported: int = 0) -> int:
    """The next version of snapshot and timestamp, and the next sequence of an assignment.

    Never below the clock nor the highest that a device reports: a server restored from a backup must not go back.
    """
    return max(last + 1, int(now.timestamp()), reported + 1)


def new_root(
    roles: Mapping[str, RoleKeys], signers: Sequence[Signer], now: datetime, previous: bytes | None = None
) -> bytes:
    """Root metadata naming the keys of root, targets, snapshot and timestamp: version 1, or the one after `previous`.

    `signers` must reach the threshold of the new root, and of `previous` as well; error `trust.signature`.
    """
    before = None if previous is None else chain.parse_root(previous).signed
    root = Root(
        version=1 if before is None else before.version + 1,
        expires=now + LIFETIMES["root"],
        keys={key.keyid: key for role in roles.values() for key in role.keys},
        roles={name: Role([key.keyid for key in role.keys], role.threshold) for name, role in roles.items()},
        consistent_snapshot=True,
    )
    signed = _sign(root, signers)
    chain.verify_root(signed, before)
    return signed


def new_targets(director: RoleKeys, signers: Sequence[Signer], now: datetime) -> bytes:
    """Version 1 of the top targets metadata: it delegates to the director and to no product yet."""
    delegations = Delegations({}, {})
    _delegate(delegations, chain.DIRECTOR, chain.DIRECTOR_PATHS, director)
    return _sign(Targets(expires=now + LIFETIMES["targets"], delegations=delegations), signers)


def add_product(
    targets: bytes,
    product: str,
    keys: RoleKeys,
    signers: Sequence[Signer],
    now: datetime,
    version: int | None = None,
) -> bytes:
    """The next version of the top targets metadata, delegating `product` as well; error `trust.product_exists`.

    `version` is given where devices have seen later ones than `targets`.
    """
    top = chain.parse_top_targets(targets).signed
    if top.delegations is None or top.delegations.roles is None:
        raise BundleError("trust.delegation", "the top targets metadata delegates to nobody")
    if check_product(product) in top.delegations.roles:
        raise BundleError("trust.product_exists", f"there is a product {product} already")
    _delegate(top.delegations, product, [f"{product}/*/*/*"], keys)
    top.version = version or top.version + 1
    top.expires = now + LIFETIMES["targets"]
    return _sign(top, signers)


def set_whereabouts(targets: bytes, known: Whereabouts, signers: Sequence[Signer], now: datetime) -> bytes:
    """The next version of the top targets metadata, telling devices where the server is and whom to trust about it."""
    top = chain.parse_top_targets(targets).signed
    whereabouts.write(top, known)
    top.version += 1
    top.expires = now + LIFETIMES["targets"]
    return _sign(top, signers)


def new_product(signers: Sequence[Signer], now: datetime) -> bytes:
    """Version 1 of a product's metadata, without any release. The delegation is what gives it a name."""
    return _sign(Targets(expires=now + LIFETIMES["product"]), signers)


def add_release(
    metadata: bytes,
    manifest: Manifest,
    signers: Sequence[Signer],
    now: datetime,
    floor: int | None = None,
    version: int | None = None,
) -> tuple[bytes, Facts]:
    """The next version of a product's verified metadata, signing `manifest` as well, and the facts signed about it.

    The counter is that of the release's other targets, or one more than the highest. `floor` never sinks; None keeps
    it. The same manifest again changes nothing: `metadata` comes back as it was. Error `trust.release_exists` for
    another one. `version` as for `add_product`.
    """
    product = chain.parse_targets(metadata, manifest.product).signed
    signed = [read_facts(path, target.length, target.hashes, target.custom) for path, target in product.targets.items()]
    same = [facts.custom.counter for facts in signed if facts.custom.version == manifest.version]
    counter = same[0] if same else max((facts.custom.counter for facts in signed), default=0) + 1
    lowest = max((facts.custom.floor for facts in signed if facts.custom.counter <= counter), default=1)
    new = describe(manifest, counter, max(lowest, floor or 1))
    for facts in signed:
        if facts.path == new.path:
            if facts.sha256 != new.sha256:
                raise BundleError(
                    "trust.release_exists", f"{new.path} is published with other content", "give it a new version"
                )
            return metadata, facts
    custom = {"custom": msgspec.to_builtins(new.custom)}
    product.targets[new.path] = TargetFile(new.length, {"sha256": new.sha256}, new.path, custom)
    product.version = version or product.version + 1
    product.expires = now + LIFETIMES["product"]
    return _sign(product, signers), new


def new_snapshot(
    targets: Mapping[str, bytes], signer: Signer, now: datetime, previous: bytes | None = None, reported: int = 0
) -> bytes:
    """Snapshot metadata of the newest metadata by role, `targets` and every product; `reported` as `next_version`."""
    last = 0 if previous is None else chain.parse_snapshot(previous).signed.version
    meta = {}
    for role, data in sorted(targets.items()):
        version = chain.parse_targets(data, role).signed.version
        meta[f"{role}.json"] = MetaFile.from_data(version, data, ["sha256"])
    snapshot = Snapshot(next_version(last, now, reported), expires=now + LIFETIMES["snapshot"], meta=meta)
    return _sign(snapshot, [signer])


def new_timestamp(
    snapshot: bytes, signer: Signer, now: datetime, previous: bytes | None = None, reported: int = 0
) -> bytes:
    """Timestamp metadata of `snapshot`; `reported` as `next_version`."""
    last = 0 if previous is None else chain.parse_timestamp(previous).signed.version
    meta = MetaFile.from_data(chain.parse_snapshot(snapshot).signed.version, snapshot, ["sha256"])
    timestamp = Timestamp(next_version(last, now, reported), expires=now + LIFETIMES["timestamp"], snapshot_meta=meta)
    return _sign(timestamp, [signer])


def _delegate(delegations: Delegations, name: str, paths: list[str], keys: RoleKeys) -> None:
    if delegations.roles is None:
        raise BundleError("trust.delegation", "delegations by hash bins are not used here")
    delegations.keys |= {key.keyid: key for key in keys.keys}
    delegations.roles[name] = DelegatedRole(
        name, [key.keyid for key in keys.keys], keys.threshold, terminating=True, paths=list(paths)
    )


def _sign(signed: T, signers: Sequence[Signer]) -> bytes:
    document = Metadata(signed)
    with chain.translated(f"signing {signed.type}"):
        for signer in signers:
            document.sign(signer, append=True)
        return document.to_bytes()
