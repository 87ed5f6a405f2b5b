"""Signing where the operator is: development roles, products, releases. The server gets signed bytes and public keys.

Every flow is: fetch what the server has, hold it against the pinned root, make the next version, sign, send. The
server takes exactly the next version of a role (compare-and-swap); of two operators at once the second is told, and
starts from the fetching again. So each flow may be repeated at any time, also after a lost answer.

    initialise       root and targets with the server's online keys  ->  POST /metadata
    create_product   targets that delegate it, and its empty list    ->  POST /products
    sign             the product's list with a manifest added        ->  into the bundle, POST /bundles (publishing)
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from beamfleet_bundles import chain, drafts, keys, repository
from beamfleet_bundles.bundle import Bundle
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.facts import Facts
from beamfleet_bundles.manifest import Manifest
from beamfleet_bundles.names import check_product, target_path
from beamfleet_bundles.offline import verify_offline
from securesystemslib.signer import Signer
from tuf.api.metadata import Root

from beamfleet_server.cli.client import Client
from beamfleet_server.cli.contexts import locked
from beamfleet_server.cli.errors import CommandError, RemoteError
from beamfleet_server.cli.keyring import Keyring
from beamfleet_server.cli.plans import Wanted, show_wanted, wanted
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
    wanted: Wanted


class Signing:
    """Signs for one context. `clock` gives the time that goes into new metadata.

    `signers` sign releases in place of the keyring's key of the product. `withdraw_older`: a release that is signed
    makes every older one of its product unwelcome to devices that have committed it.
    """

    def __init__(
        self,
        client: Client,
        directory: Path,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        signers: Sequence[Signer] = (),
        withdraw_older: bool = False,
    ) -> None:
        self.keyring = Keyring(directory)
        self._client = client
        self._clock = clock
        self._signers = tuple(signers)
        self._withdraw_older = withdraw_older

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
        if served != (pinned := self.keyring.pinned()):
            self._follow(pinned, served)
            self.keyring.pin(served)
        return served

    def roots(self) -> list[bytes]:
        """Every root of the fleet, oldest first, each verified by the one before, up to the one of `root`."""
        newest = self.root()
        last = chain.parse_root(newest).signed.version
        found = [self._root(version) for version in range(1, last)] + [newest]
        before = None
        for data in found:
            before = self._verified_root(data, before)
        self.keyring.keep(("root", version, data) for version, data in enumerate(found, 1))
        return found

    def fetch(self, role: str) -> bytes:
        """What the server has of a role, not verified yet; `metadata.untrusted` when it has nothing."""
        served = self._client.get_bytes(f"/metadata/{role}")
        if served is None:
            raise CommandError(
                "metadata.untrusted", f"{self._client.server} does not give out the metadata of {role}", ""
            )
        return served

    def next_versions(self) -> dict[str, int]:
        """The versions that targets and products get next: above what server, devices and this operator have seen.

        To be asked before the documents that shall be followed are fetched: then somebody else's publication in
        between is a conflict, and never lost.
        """
        served = {role: row["next"] for role, row in self._client.get("/metadata/versions")["roles"].items()}
        roles = served.keys() | {role for role, _ in self.keyring.kept}
        return {role: max(served.get(role, 1), self.keyring.version(role) + 1) for role in roles}

    def trusted(self) -> Trusted:
        """Root and targets as the server has them, verified from the pinned root down."""
        root = self.root()
        targets = self.fetch("targets")
        verified = chain.verify_chain([root], targets, {}, self._clock())
        self.keyring.keep([("root", verified.root.version, root), ("targets", verified.targets.version, targets)])
        return Trusted(root, targets, verified)

    def create_product(self, name: str) -> bool:
        """Delegate a product to a key made here; False when that was done before, `keys.missing` when elsewhere."""
        check_product(name)
        with locked(self.keyring.directory):
            for left in reversed(range(TRIES)):
                version = self.next_versions().get("targets", 1)
                trusted = self.trusted()
                if role := chain.product_roles(trusted.chain.targets).get(name):
                    if self.keyring.signer(name).public_key.keyid not in role.keyids:
                        raise self._not_its_key(name)
                    return False
                top = self._alone(trusted)
                own = self.keyring.make(name)
                allowed = repository.RoleKeys((own.public_key,))
                version = max(version, trusted.chain.targets.version + 1)
                targets = repository.add_product(trusted.targets, name, allowed, [top], self._clock(), version)
                empty = repository.new_product([own], self._clock())
                try:
                    self._client.post("/products", {"name": name, "targets": _text(targets), "product": _text(empty)})
                except RemoteError as error:
                    if error.code not in CONFLICTS or not left:
                        raise
                else:
                    return True
        raise AssertionError("the last try returns or raises")

    def sign(self, manifest: Manifest, begun: Mapping[str, bytes] | None = None) -> Signed:
        """Sign a manifest as the next release of its product, or find that it has been signed.

        `begun` is the metadata of a bundle that somebody else has signed already: where it still fits, signatures are
        added to it. Errors `product.unknown`, `keys.missing`, `release.withdrawn_alone`, and `bundle.version_exists`
        when other bytes have that version and target.
        """
        product = manifest.product
        version = self.next_versions().get(product, 1)
        trusted = self.trusted()
        self._check_product(product, trusted)
        before = self.fetch(product)
        verified = chain.verify_chain([trusted.root], trusted.targets, {product: before}, self._clock())
        self.keyring.keep([(product, verified.products[product].version, before)])
        try:
            version = max(version, verified.products[product].version + 1)
            after, facts = self._release(before, manifest, version)
        except BundleError as error:
            if error.code != "trust.release_exists":
                raise
            raise version_exists(manifest) from error
        if after != before:
            after = _continued(after, _document(begun or {}, product), product)
            for signer in self._signers or (self.keyring.signer(product),):
                if signer.public_key.keyid not in chain.product_roles(trusted.chain.targets)[product].keyids:
                    raise self._not_its_key(product, signer)
                after = drafts.signed(after, signer)
        metadata = {
            f"root.{trusted.chain.root.version}": trusted.root,
            f"targets.{trusted.chain.targets.version}": trusted.targets,
            f"{product}.{chain.parse_targets(after, product).signed.version}": after,
        }
        return Signed(metadata, facts, wanted(product, "targets", trusted.chain.targets, after))

    def check(self, bundle: Bundle) -> None:
        """`bundle.untrusted` unless the bundle's own metadata follows from this server's root, however old it is;
        `release.unsigned` while people who must sign it have not."""
        manifest = bundle.manifest
        path = target_path(manifest.product, manifest.version, manifest.target)
        try:
            verify_offline(bundle.metadata, bundle.manifest_bytes, path, self.root(), self._clock())
        except BundleError as error:
            if error.code == "trust.expired":
                return
            if error.code == "trust.signature":
                self._check_begun(bundle)
            raise ServerError(
                "bundle.untrusted",
                f"the signature of {bundle.path} does not hold on {self._client.server}: {error.message}",
                "ask where it comes from; `beamfleet bundle sign FILE` signs its content anew",
            ) from error

    def _check_begun(self, bundle: Bundle) -> None:
        """`release.unsigned` if some of the people who must sign the product's list have, and others have not."""
        product, document = bundle.manifest.product, _document(bundle.metadata, bundle.manifest.product)
        trusted = self.trusted()
        self._check_product(product, trusted)
        needed = wanted(product, "targets", trusted.chain.targets, document) if document else None
        if needed and needed.signed:
            check_complete(bundle.manifest, needed)

    def _alone(self, trusted: Trusted) -> Signer:
        """The keyring's key of targets, where it alone is enough; `keys.several` where people have to agree."""
        role = trusted.chain.root.roles["targets"]
        if role.threshold > 1:
            raise CommandError(
                "keys.several",
                f"targets is signed by {role.threshold} people on {self._client.server}",
                "beamfleet keys plan product NAME --key FILE.pub --out PLAN",
            )
        return self.keyring.signer("targets")

    def _check_product(self, product: str, trusted: Trusted) -> None:
        if product not in chain.product_roles(trusted.chain.targets):
            raise ServerError(
                "product.unknown", f"there is no product {product}", f"beamfleet product create {product}"
            )

    def _release(self, before: bytes, manifest: Manifest, version: int) -> tuple[bytes, Facts]:
        """The product's list with the manifest added, unsigned; `before` itself if it was there."""
        now = self._clock()
        after, facts = repository.add_release(before, manifest, [], now, None, version)
        if not self._withdraw_older:
            return after, facts
        if after == before and facts.custom.floor < facts.custom.counter:
            raise CommandError(
                "release.withdrawn_alone",
                f"{manifest.product} {manifest.version} is signed already, with older releases allowed",
                "a release withdraws older ones when it is signed, not later: sign a new version",
            )
        return repository.add_release(before, manifest, [], now, facts.custom.counter, version)

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

    def _follow(self, pinned: bytes | None, served: bytes) -> None:
        """`metadata.untrusted` unless `served` follows from the pinned root, through those between them."""
        if pinned is None:
            self._verified_root(served, None)
            return
        root = chain.parse_root(pinned).signed
        for version in range(root.version + 1, chain.parse_root(served).signed.version):
            root = self._verified_root(self._root(version), root)
        self._verified_root(served, root)

    def _root(self, version: int) -> bytes:
        kept = self.keyring.kept.get(("root", version))
        data = kept.read_bytes() if kept else self._client.get_bytes(f"/metadata/root/{version}")
        if data is None:
            raise CommandError(
                "metadata.untrusted", f"{self._client.server} does not give out root {version}", "it lost a part"
            )
        return data

    def _verified_root(self, data: bytes, before: Root | None) -> Root:
        try:
            return chain.verify_root(data, before)
        except BundleError as error:
            raise CommandError(
                "metadata.untrusted",
                f"the root of {self._client.server} does not follow from {self.keyring.pin_file}: {error.message}",
                "if the server was set up anew on purpose, move that file and the directory beside it away",
            ) from error

    def _not_its_key(self, product: str, signer: Signer | None = None) -> CommandError:
        named = f"key {signer.public_key.keyid[:8]}" if self._signers and signer else self.keyring.path(product)
        return CommandError(
            "keys.missing",
            f"{named} is not the key of product {product} on {self._client.server}",
            "`beamfleet keys status` tells whose keys they are; --key FILE signs with another one",
        )


def check_complete(manifest: Manifest, needed: Wanted) -> None:
    """`release.unsigned`, with who is missing, unless everybody has signed who must."""
    if needed.missing:
        raise CommandError(
            "release.unsigned",
            f"{manifest.product} {manifest.version} needs {show_wanted(needed)}",
            "beamfleet bundle sign FILE --key FILE, by each of them, soon after each other",
        )


def version_exists(manifest: Manifest) -> ServerError:
    """The error for other bytes under a published version."""
    return ServerError(
        "bundle.version_exists",
        f"{manifest.product} {manifest.version} for {manifest.target} is published with other content",
        "raise the version: a published release never changes (--version, or the version in the release itself)",
    )


def _document(metadata: Mapping[str, bytes], product: str) -> bytes | None:
    """The product's list in the metadata of a bundle, if there is just one."""
    found = [data for name, data in metadata.items() if name.rpartition(".")[0] == product]
    return found[0] if len(found) == 1 else None


def _continued(fresh: bytes, begun: bytes | None, product: str) -> bytes:
    """`begun` if it says what `fresh` says and has at most a day less to live, else `fresh`."""
    if begun is None:
        return fresh
    ours, theirs = chain.parse_targets(fresh, product).signed, chain.parse_targets(begun, product).signed
    age = ours.expires - theirs.expires
    theirs.expires = ours.expires
    return begun if ours == theirs and timedelta() <= age <= timedelta(days=1) else fresh


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
