"""The development keys of one context, and the root that this operator trusts. Files in CONFIG_DIR/keys/CONTEXT, 0700:

    root.key targets.key     0600, made by `beamfleet init --development`
    product-NAME.key         0600, made by `beamfleet product create NAME`
    root.json                the pinned root metadata; public, and what every answer of the server is held against

All on one machine, each alone enough: for development. A key is never overwritten and never leaves this directory.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from beamfleet_bundles import durable

from beamfleet_server.cli.contexts import locked, make_private
from beamfleet_server.cli.errors import CommandError

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner


class Keyring:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pin_file = directory / "root.json"

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
