"""Who signs releases, for tests: development keys in memory, real bundles of a tiny release, uploads over the API."""

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
from beamfleet_bundles import keys, repository
from beamfleet_bundles.build.builder import build
from beamfleet_bundles.bundle import Bundle
from beamfleet_bundles.repository import RoleKeys
from securesystemslib.signer import CryptoSigner, Key

from tests.support import skeleton
from tests.support.server import Server


class Author:
    """An operator with the keys of root, targets and products."""

    def __init__(self, server: Server, work: Path) -> None:
        self._server = server
        self._work = work
        self.keys = {role: CryptoSigner.generate_ed25519() for role in ("root", "targets")}

    def initialise(self) -> requests.Response:
        """Sign and upload the first root and targets."""
        online = {role: keys.parse_public(key) for role, key in self._server.get("/server")["online_keys"].items()}
        signed = first_metadata(online, now(), self.keys)
        return self._server.api("POST", "/metadata", json={role: _text(data) for role, data in signed.items()})

    def create_product(self, name: str) -> requests.Response:
        """Sign and upload a further product."""
        self.keys[name] = CryptoSigner.generate_ed25519()
        product_keys = RoleKeys((self.keys[name].public_key,))
        targets = repository.add_product(self.held("targets"), name, product_keys, [self.keys["targets"]], now())
        product = repository.new_product([self.keys[name]], now())
        body = {"name": name, "targets": _text(targets), "product": _text(product)}
        return self._server.api("POST", "/products", json=body)

    def build(self, product: str, version: str, *, hardware: str | None = None, note: bytes = b"") -> Path:
        """An unsigned bundle of a tiny release; another `note` makes another manifest."""
        folder = self._work / f"{product}-{version}-{hardware}-{len(note)}"
        folder.mkdir(parents=True)
        files = skeleton.release("relx", "my_app", version) | {"lib/my_app-1.0.0/priv/note": note}
        source = skeleton.write(folder, files)
        return build(source, out_dir=folder, product=product, version=version, hardware=hardware).path

    def sign(self, path: Path, key: CryptoSigner | None = None) -> Path:
        """Sign a bundle with the product's key, or with another one, over the product's newest metadata."""
        bundle = Bundle.open(path)
        product = bundle.manifest.product
        signed, _ = repository.add_release(self.held(product), bundle.manifest, [key or self.keys[product]], now())
        documents = {"root": self.held("root"), "targets": self.held("targets"), product: signed}
        versions = self._server.get("/server")["metadata"]
        numbers = {"root": versions["root"], "targets": versions["targets"], product: versions["products"][product] + 1}
        bundle.with_metadata(path, {f"{role}.{numbers[role]}": data for role, data in documents.items()})
        return path

    def upload(self, path: Path) -> requests.Response:
        """Publish a bundle file."""
        with path.open("rb") as file:
            return self._server.api("POST", "/bundles", data=file)

    def publish(self, product: str, version: str, **more: Any) -> dict[str, Any]:
        """Build, sign and publish; what the server says of it."""
        answer = self.upload(self.sign(self.build(product, version, **more)))
        assert answer.status_code == 201, answer.text
        published: dict[str, Any] = answer.json()
        return published

    def held(self, role: str) -> bytes:
        """The newest metadata that the server has."""
        answer = self._server.api("GET", f"/metadata/{role}")
        assert answer.status_code == 200, answer.text
        return answer.content


def first_metadata(
    online: Mapping[str, Key], time: datetime, signers: Mapping[str, CryptoSigner] | None = None
) -> dict[str, bytes]:
    """The first root and targets for a server with these online keys, by role."""
    signers = signers or {role: CryptoSigner.generate_ed25519() for role in ("root", "targets")}
    roles = {role: RoleKeys((online[role],)) for role in ("snapshot", "timestamp")}
    roles |= {role: RoleKeys((signer.public_key,)) for role, signer in signers.items() if role in ("root", "targets")}
    root = repository.new_root(roles, [signers["root"]], time)
    return {
        "root": root,
        "targets": repository.new_targets(RoleKeys((online["director"],)), [signers["targets"]], time),
    }


def now() -> datetime:
    """This second."""
    return datetime.now(UTC).replace(microsecond=0)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
