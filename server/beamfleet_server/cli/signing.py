"""Signing where the operator is: development roles, products, releases. The server gets signed bytes and public keys.

Every flow is: fetch what the server has, hold it against the pinned root, make the next version, sign, send. The
server takes exactly the next version of a role (compare-and-swap); of two operators at once the second is told, and
starts from the fetching again. So each flow may be repeated at any time, also after a lost answer.

    initialise       root and targets with the server's online keys  ->  POST /metadata
    create_product   targets that delegate it, and its empty list    ->  POST /products
    sign             the product's list with a manifest added        ->  into the bundle, POST /bundles (publishing)
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from beamfleet_bundles import chain, keys, repository
from beamfleet_bundles.bundle import Bundle
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.facts import Facts
from beamfleet_bundles.manifest import Manifest
from beamfleet_bundles.names import check_product, target_path
from beamfleet_bundles.offline import verify_offline

from beamfleet_server.cli.client import Client
from beamfleet_server.cli.contexts import locked
from beamfleet_server.cli.errors import CommandError, RemoteError
from beamfleet_server.cli.keyring import Keyring
from beamfleet_server.errors import ServerError

TRIES = 5
CONFLICTS = frozenset({"metadata.conflict", "trust.conflict", "product.exists"})


@dataclass(frozen=True, slots=True)
class Trusted:
    """What the server has, after verification: bytes by role, and the root and targets that they mean."""

    root: bytes
    targets: bytes
    chain: chain.Chain


@dataclass(frozen=True, slots=True)
class Signed:
    """Metadata for a bundle by name (`root.1`, `targets.3`, `PRODUCT.7`), and what it signs."""

    metadata: dict[str, bytes]
    facts: Facts


class Signing:
    """Signs for one context. `clock` gives the time that goes into new metadata."""

    def __init__(
        self, client: Client, directory: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.keyring = Keyring(directory)
        self._client = client
        self._clock = clock

    def initialise(self) -> bool:
        """Give a new server root and targets; False when it has ours already, `init.foreign_root` when others'."""
        with locked(self.keyring.directory):
            served = self._client.get_bytes("/metadata/root")
            if served is None:
                try:
                    self._send_roles()
                except RemoteError as error:
                    if error.code not in CONFLICTS:
                        raise
                    served = self._client.get_bytes("/metadata/root")
                else:
                    return True
            self._check_ours(served or b"")
            self.root()
            return False

    def root(self) -> bytes:
        """The server's root metadata, held against the pinned one; pinned now when none was.

        `init.missing` when the server has none, `metadata.untrusted` when it does not follow from the pinned root.
        """
        served = self._client.get_bytes("/metadata/root")
        if served is None:
            raise CommandError(
                "init.missing", f"{self._client.server} has no signing roles yet", "beamfleet init --development"
            )
        pinned = self.keyring.pinned()
        if served != pinned:
            try:
                chain.verify_root(served, chain.parse_root(pinned).signed if pinned else None)
            except BundleError as error:
                raise CommandError(
                    "metadata.untrusted",
                    f"the root of {self._client.server} does not follow from {self.keyring.pin_file}: {error.message}",
                    "if the server was set up anew on purpose, move that file away",
                ) from error
            self.keyring.pin(served)
        return served

    def trusted(self) -> Trusted:
        """Root and targets as the server has them, verified from the pinned root down."""
        root = self.root()
        targets = self._fetch("targets")
        return Trusted(root, targets, chain.verify_chain([root], targets, {}, self._clock()))

    def create_product(self, name: str) -> bool:
        """Delegate a product to a key made here; False when that was done before, `keys.missing` when elsewhere."""
        check_product(name)
        with locked(self.keyring.directory):
            for left in reversed(range(TRIES)):
                trusted = self.trusted()
                if role := chain.product_roles(trusted.chain.targets).get(name):
                    if self.keyring.signer(name).public_key.keyid not in role.keyids:
                        raise self._not_its_key(name)
                    return False
                top, own = self.keyring.signer("targets"), self.keyring.make(name)
                allowed = repository.RoleKeys((own.public_key,))
                targets = repository.add_product(trusted.targets, name, allowed, [top], self._clock())
                empty = repository.new_product([own], self._clock())
                try:
                    self._client.post("/products", {"name": name, "targets": _text(targets), "product": _text(empty)})
                except RemoteError as error:
                    if error.code not in CONFLICTS or not left:
                        raise
                else:
                    return True
        raise AssertionError("the last try returns or raises")

    def sign(self, manifest: Manifest) -> Signed:
        """Sign a manifest as the next release of its product, or find that it has been signed.

        `product.unknown`, `keys.missing`, and `bundle.version_exists` when other bytes have that version and target.
        """
        product = manifest.product
        trusted = self.trusted()
        role = chain.product_roles(trusted.chain.targets).get(product)
        if role is None:
            raise ServerError(
                "product.unknown", f"there is no product {product}", f"beamfleet product create {product}"
            )
        signer = self.keyring.signer(product)
        if signer.public_key.keyid not in role.keyids:
            raise self._not_its_key(product)
        before = self._fetch(product)
        chain.verify_chain([trusted.root], trusted.targets, {product: before}, self._clock())
        try:
            after, facts = repository.add_release(before, manifest, [signer], self._clock())
        except BundleError as error:
            if error.code != "trust.release_exists":
                raise
            raise version_exists(manifest) from error
        metadata = {
            f"root.{trusted.chain.root.version}": trusted.root,
            f"targets.{trusted.chain.targets.version}": trusted.targets,
            f"{product}.{chain.parse_targets(after, product).signed.version}": after,
        }
        return Signed(metadata, facts)

    def check(self, bundle: Bundle) -> None:
        """`bundle.untrusted` unless the bundle's own metadata follows from this server's root, however old it is."""
        manifest = bundle.manifest
        path = target_path(manifest.product, manifest.version, manifest.target)
        try:
            verify_offline(bundle.metadata, bundle.manifest_bytes, path, self.root(), self._clock())
        except BundleError as error:
            if error.code == "trust.expired":
                return
            raise ServerError(
                "bundle.untrusted",
                f"the signature of {bundle.path} does not hold on {self._client.server}: {error.message}",
                "ask where it comes from; `beamfleet bundle sign FILE` signs its content anew",
            ) from error

    def _send_roles(self) -> None:
        now = self._clock()
        online = {role: keys.parse_public(key) for role, key in self._client.get("/server")["online_keys"].items()}
        root, targets = self.keyring.make("root"), self.keyring.make("targets")
        signed_root = repository.new_root(
            {
                "root": repository.RoleKeys((root.public_key,)),
                "targets": repository.RoleKeys((targets.public_key,)),
                "snapshot": repository.RoleKeys((online["snapshot"],)),
                "timestamp": repository.RoleKeys((online["timestamp"],)),
            },
            [root],
            now,
        )
        signed_targets = repository.new_targets(repository.RoleKeys((online["director"],)), [targets], now)
        self.keyring.pin(signed_root)
        self._client.post("/metadata", {"root": _text(signed_root), "targets": _text(signed_targets)})

    def _check_ours(self, root: bytes) -> None:
        key = self.keyring.path("root")
        role = chain.verify_root(root, None).roles["root"]
        if not key.exists() or self.keyring.signer("root").public_key.keyid not in role.keyids:
            raise CommandError(
                "init.foreign_root",
                f"{self._client.server} was initialised with a root key that is not {key}",
                "work where that key is, or copy it here with the other keys (mode 0600)",
            )

    def _fetch(self, role: str) -> bytes:
        served = self._client.get_bytes(f"/metadata/{role}")
        if served is None:
            raise CommandError(
                "metadata.untrusted", f"{self._client.server} does not give out the metadata of {role}", ""
            )
        return served

    def _not_its_key(self, product: str) -> CommandError:
        return CommandError(
            "keys.missing",
            f"{self.keyring.path(product)} is not the key of product {product} on {self._client.server}",
            "copy the key from whoever created the product, or create one under another name",
        )


def version_exists(manifest: Manifest) -> ServerError:
    """The error for other bytes under a published version."""
    return ServerError(
        "bundle.version_exists",
        f"{manifest.product} {manifest.version} for {manifest.target} is published with other content",
        "raise the version: a published release never changes (--version, or the version in the release itself)",
    )


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
