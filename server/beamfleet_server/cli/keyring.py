"""The keys of one context, and the metadata that this operator trusts. Files in CONFIG_DIR/keys/CONTEXT, 0700:

    root.key targets.key     0600, made by `beamfleet init --development`
    product-NAME.key         0600, made by `beamfleet product create NAME`, or put there by a release engineer
    root.json                the pinned root metadata; public, and what every answer of the server is held against
    metadata/N.ROLE.json     every signed document that was ever seen here: what a lost server is set up again from

The first two lie on one machine, each alone enough: for development. A key is never overwritten and never leaves this
directory.
"""

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from beamfleet_bundles import durable

from beamfleet_server.cli.contexts import locked, make_private
from beamfleet_server.cli.errors import CommandError

if TYPE_CHECKING:
    from beamfleet_bundles.bundle import Bundle
    from securesystemslib.signer import CryptoSigner

_KEPT = re.compile(r"([1-9][0-9]{0,15})\.([a-z][a-z0-9-]{0,30})\.json")


class Keyring:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pin_file = directory / "root.json"
        self.metadata = directory / "metadata"

    def path(self, role: str) -> Path:
        """Where the key of root, targets or a product lies."""
        return self.directory / (f"{role}.key" if role in {"root", "targets"} else f"product-{role}.key")

    def signer(self, role: str) -> "CryptoSigner":
        """The key of a role; `keys.missing`, or `trust.key_*` when its file is no key or is open to others."""
        from beamfleet_bundles import keys

        path = self.path(role)
        if not path.exists():
            raise CommandError(
                "keys.missing",
                f"the key of {role} is not here: {path}",
                "copy it from whoever made it (mode 0600), or work where it is",
            )
        return keys.load(path)

    def make(self, role: str) -> "CryptoSigner":
        """The key of a role, made now if there is none."""
        from beamfleet_bundles import keys

        make_private(self.directory)
        path = self.path(role)
        return keys.load(path) if path.exists() else keys.generate(path)

    def pinned(self) -> bytes | None:
        """The root metadata that is trusted, or None before there is one."""
        try:
            return self.pin_file.read_bytes()
        except FileNotFoundError:
            return None

    def pin(self, root: bytes) -> None:
        with locked(self.directory, ".pin.lock"):
            durable.replace(self.pin_file, root)

    @property
    def kept(self) -> dict[tuple[str, int], Path]:
        """Where the signed documents lie that were seen, by role and version."""
        if not self.metadata.is_dir():
            return {}
        found = {path: _KEPT.fullmatch(path.name) for path in self.metadata.iterdir()}
        return {(match[2], int(match[1])): path for path, match in found.items() if match}

    def version(self, role: str) -> int:
        """The newest version of a role that is kept, 0 without any."""
        return max((version for kept, version in self.kept if kept == role), default=0)

    def newest(self, role: str) -> bytes | None:
        """The newest document of a role that is kept."""
        version = self.version(role)
        return self.kept[role, version].read_bytes() if version else None

    def keep_of(self, bundle: "Bundle") -> list[str]:
        """Keep what a signed bundle brings that is newer and follows from the roots kept here; the names of it."""
        from beamfleet_bundles import chain

        offered = {tuple(name.rsplit(".", 1)): data for name, data in bundle.metadata.items()}
        root, found = None, list[tuple[str, int, bytes]]()
        while path := self.kept.get(("root", root.version + 1 if root else 1)):
            root = chain.verify_root(path.read_bytes(), root)
        while data := offered.get(("root", str(root.version + 1 if root else 1))):
            root = chain.verify_root(data, root)
            found.append(("root", root.version, data))
        if root is None:
            raise CommandError(
                "keys.nothing_kept",
                f"no root in {self.metadata} leads to that of the bundle",
                "copy it from an operator",
            )
        documents, product = {role: data for (role, _), data in offered.items()}, bundle.manifest.product
        targets, listed = documents.get("targets", b""), documents.get(product, b"")
        top = chain.verify_targets(targets, root)
        found.append(("targets", top.version, targets))
        found.append((product, chain.verify_product(listed, product, top).version, listed))
        new = [each for each in found if (each[0], each[1]) not in self.kept]
        self.keep(new)
        return [f"{role} {version}" for role, version, _ in new]

    def keep(self, documents: Iterable[tuple[str, int, bytes]]) -> None:
        """Keep documents that were verified, by role and version; what is kept already stays."""
        make_private(self.metadata)
        for role, version, data in documents:
            path = self.metadata / f"{version}.{role}.json"
            if not path.exists():
                with contextlib.suppress(FileExistsError):  # another command was faster
                    durable.create(path, data, 0o644)
