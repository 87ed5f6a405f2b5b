"""Owns checking signed metadata from a trusted root downward: root, targets, products, one document at a time.

Bytes in, verified python-tuf objects out; no file, no network, no clock of its own. The same functions serve the
device's offline install, the server at upload and whoever signs. `verify_delegate` of python-tuf proves keys and
threshold only: which paths a role may speak for, expiry and the shape that we allow are checked here.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from tuf.api import exceptions
from tuf.api.metadata import DelegatedRole, Metadata, Root, Signed, Snapshot, T, Targets, Timestamp
from tuf.api.serialization import DeserializationError, SerializationError

from beamfleet_bundles import recipients, whereabouts
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.facts import Facts, read_facts
from beamfleet_bundles.names import check_product

DIRECTOR = "director"
DIRECTOR_PATHS = ["assign/*"]
MAX_METADATA = {"root": 512_000, "timestamp": 16_384, "snapshot": 512_000, "targets": 1 << 20}
"""Largest size in bytes of a metadata document; `targets` counts for products as well."""

_HINTS = {
    "trust.expired": "check the clock, then have the role signed again",
    "trust.rollback": "what is offered is older than, or does not belong to, what was trusted before",
    "trust.signature": "it was altered, or signed with keys that the root does not name",
}


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Errors of python-tuf and of the disk leave the block as `BundleError` with a `trust.*` code, about `what`."""
    try:
        yield
    except exceptions.DownloadLengthMismatchError as error:
        raise _refused("trust.too_large", f"{what}: {error}") from error
    except exceptions.DownloadError as error:
        raise _refused("trust.unavailable", f"{what}: {error}") from error
    except exceptions.ExpiredMetadataError as error:
        raise _refused("trust.expired", f"{what}: {error}") from error
    except exceptions.BadVersionNumberError as error:
        raise _refused("trust.rollback", f"{what}: {error}") from error
    except exceptions.LengthOrHashMismatchError as error:
        raise _refused("trust.mismatch", f"{what}: {error}") from error
    except exceptions.UnsignedMetadataError as error:
        if isinstance(error.__cause__, BundleError):  # a signer's own words
            raise error.__cause__ from None
        raise _refused("trust.signature", f"{what}: {error}") from error
    except (DeserializationError, SerializationError) as error:
        raise _refused("trust.malformed", f"{what}: {error.__cause__ or error}") from error
    except (exceptions.RepositoryError, ValueError) as error:
        raise _refused("trust.inconsistent", f"{what}: {error}") from error
    except OSError as error:
        raise _refused("trust.storage", f"{what}: {error}") from error


def parse_root(data: bytes) -> Metadata[Root]:
    """`data` as root metadata, unverified; errors `trust.malformed`, `trust.too_large`."""
    return _parse(data, Root, "root")


def parse_targets(data: bytes, role: str) -> Metadata[Targets]:
    """`data` as the targets metadata of `role`, unverified; errors `trust.malformed`, `trust.too_large`."""
    return _parse(data, Targets, role)


def parse_top_targets(data: bytes) -> Metadata[Targets]:
    """`data` as the top-level targets metadata, unverified; errors `trust.malformed`, `trust.too_large`."""
    return parse_targets(data, Targets.type)


def parse_snapshot(data: bytes) -> Metadata[Snapshot]:
    """`data` as snapshot metadata, unverified; errors `trust.malformed`, `trust.too_large`."""
    return _parse(data, Snapshot, "snapshot")


def parse_timestamp(data: bytes) -> Metadata[Timestamp]:
    """`data` as timestamp metadata, unverified; errors `trust.malformed`, `trust.too_large`."""
    return _parse(data, Timestamp, "timestamp")


def verify_root(data: bytes, previous: Root | None) -> Root:
    """`data` as root metadata, signed by itself and by `previous`, of which it is the next version.

    With `previous` None the bytes are the anchor of trust themselves. Expiry is for the last root only: `check_fresh`.
    """
    document = parse_root(data)
    root = document.signed
    with translated(f"root {root.version}"):
        root.verify_delegate(Root.type, document.signed_bytes, document.signatures)
        if previous is not None:
            previous.verify_delegate(Root.type, document.signed_bytes, document.signatures)
            if root.version != previous.version + 1:
                raise exceptions.BadVersionNumberError(f"expected version {previous.version + 1}")
    return root


def verify_targets(data: bytes, root: Root) -> Targets:
    """`data` as top-level targets metadata under `root`, of the shape that beamfleet allows.

    Errors `trust.*`, `whereabouts.*` for the part that tells where the server is, `evidence.*` for who may open it.
    """
    document = parse_top_targets(data)
    with translated(f"targets {document.signed.version}"):
        root.verify_delegate(Targets.type, document.signed_bytes, document.signatures)
    check_targets(document.signed)
    return document.signed


def check_targets(targets: Targets) -> None:
    """Top-level targets metadata must have the shape that beamfleet allows; errors `trust.delegation`,
    `whereabouts.*`, `evidence.*`."""
    _check_delegations(targets)
    whereabouts.read(targets)
    recipients.read(targets)


def verify_product(data: bytes, product: str, targets: Targets) -> Targets:
    """`data` as the metadata of `product`, delegated to it by `targets`; delegates nothing itself."""
    document = parse_targets(data, product)
    with translated(f"{product} {document.signed.version}"):
        targets.verify_delegate(product, document.signed_bytes, document.signatures)
    if document.signed.delegations is not None:
        raise _refused("trust.delegation", f"{product} delegates to further roles")
    return document.signed


def product_roles(targets: Targets) -> dict[str, DelegatedRole]:
    """The product roles that `targets` delegates to, by name."""
    roles = (targets.delegations and targets.delegations.roles) or {}
    return {name: role for name, role in roles.items() if name != DIRECTOR}


def product_facts(product: str, metadata: Targets, targets: Targets) -> dict[str, Facts]:
    """All facts that `product` signs, by path; each path must be one that `targets` lets it speak for."""
    role = product_roles(targets)[product]
    found = {}
    for path, target in metadata.targets.items():
        if not role.is_delegated_path(path):
            raise _refused("trust.delegation", f"{product} has signed {path[:160]!r}, which is not its own")
        found[path] = read_facts(path, target.length, target.hashes, target.custom)
    return found


def check_fresh(signed: Signed, role: str, now: datetime) -> None:
    """Error `trust.expired` if `signed` is past its time at `now`."""
    if signed.is_expired(now):
        raise _refused("trust.expired", f"{role} {signed.version} expired at {signed.expires:%Y-%m-%dT%H:%M:%SZ}")


@dataclass(frozen=True, slots=True)
class Chain:
    """Metadata that has been verified together, and what the products sign."""

    root: Root
    targets: Targets
    products: Mapping[str, Targets]
    facts: Mapping[str, Facts]


def verify_chain(
    roots: Sequence[bytes],
    targets: bytes,
    products: Mapping[str, bytes],
    now: datetime,
    fresh: Collection[str] | None = None,
) -> Chain:
    """Root to targets to products, none expired. The first of `roots` is trusted as it is, the others follow it.

    `fresh`: the products that must not be expired, all of them unless it is given.
    """
    root = verify_root(roots[0], None)
    for data in roots[1:]:
        root = verify_root(data, root)
    check_fresh(root, "root", now)
    top = verify_targets(targets, root)
    check_fresh(top, "targets", now)
    verified = {}
    facts: dict[str, Facts] = {}
    for product, data in products.items():
        verified[product] = verify_product(data, product, top)
        if fresh is None or product in fresh:
            check_fresh(verified[product], product, now)
        facts |= product_facts(product, verified[product], top)
    return Chain(root, top, verified, facts)


def _parse(data: bytes, kind: type[T], role: str) -> Metadata[T]:
    limit = MAX_METADATA.get(role, MAX_METADATA["targets"])
    if len(data) > limit:
        raise _refused("trust.too_large", f"{role} metadata has {len(data)} bytes; at most {limit} are read")
    with translated(f"{role} metadata"):
        document = Metadata[T].from_bytes(data)
    if document.signed.type != kind.type:
        raise _refused("trust.malformed", f"{role} metadata is of the type {document.signed.type}")
    return document


def _check_delegations(targets: Targets) -> None:
    """The top role signs no file; it delegates to the director and to products, each for its own paths, terminating."""
    if targets.targets:
        raise _refused("trust.delegation", "the top targets role signs a file itself")
    delegations = targets.delegations
    if delegations is None or delegations.roles is None or DIRECTOR not in delegations.roles:
        raise _refused("trust.delegation", "targets does not delegate to the director")
    for name, role in delegations.roles.items():
        paths = DIRECTOR_PATHS if name == DIRECTOR else [f"{check_product(name)}/*/*/*"]
        if role.paths != paths or not role.terminating:
            raise _refused("trust.delegation", f"targets delegates to {name}, but not {paths[0]} alone and terminating")


def _refused(code: str, message: str) -> BundleError:
    return BundleError(code, message, _HINTS.get(code, ""))
