"""A built bundle's way to the server: signed here, uploaded, and seen to be the one that is published.

Repeating is safe at every step. Bytes that are published already are not sent again; other bytes under a published
version are refused before they are sent; of two operators who publish at once the second signs again on top of the
first.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

from beamfleet_bundles.bundle import Bundle
from beamfleet_bundles.manifest import Manifest

from beamfleet_server.cli.client import Client, Json
from beamfleet_server.cli.errors import CommandError, RemoteError
from beamfleet_server.cli.signing import CONFLICTS, TRIES, Signing, check_complete, version_exists

Opener = Callable[[Path], AbstractContextManager[IO[bytes]]]


class Publishing:
    """Publishes bundles of one context. `open_file` opens what is uploaded, and may show how far it has been read."""

    def __init__(self, client: Client, signing: Signing, open_file: Opener = lambda path: path.open("rb")) -> None:
        self._client = client
        self._signing = signing
        self._open_file = open_file

    def published(self, manifest: Manifest) -> Json | None:
        """What the server says about this very manifest or None; `bundle.version_exists` when it has another."""
        try:
            item = self._client.get(f"/bundles/{manifest.product}/{manifest.version}/{manifest.target}")
        except RemoteError as error:
            if error.code in {"bundle.unknown", "release.unknown", "product.unknown"}:
                return None
            raise
        if item["manifest"] != manifest.sha256:
            raise version_exists(manifest)
        return {key: value for key, value in item.items() if key != "content"} | {"already": True}

    def publish(self, bundle: Bundle, scratch: Path) -> Json:
        """Sign a bundle as the newest release and upload it; `scratch` is where the signed copy may be written.

        The API's answer, with `already` true when the server had it. `publish.contended` when others kept being faster.
        """
        for _ in range(TRIES):
            if item := self.published(bundle.manifest):
                return item
            signed = self._signing.sign(bundle.manifest, bundle.metadata)
            check_complete(bundle.manifest, signed.wanted)
            bundle.with_metadata(scratch, signed.metadata)
            try:
                return self._upload(scratch)
            except RemoteError as error:
                if error.code not in CONFLICTS:
                    raise
        raise CommandError(
            "publish.contended", f"somebody else published {TRIES} times before this bundle could be", "publish again"
        )

    def publish_signed(self, bundle: Bundle, scratch: Path) -> Json:
        """Upload a bundle with the signature that it has; where that is out of date, sign it here as `publish` does.

        A signature that does not hold is `bundle.untrusted`: what somebody else signed is not signed anew unasked.
        """
        if item := self.published(bundle.manifest):
            return item
        self._signing.check(bundle)
        try:
            return self._upload(bundle.path)
        except RemoteError as error:
            if error.code not in CONFLICTS:
                raise
        return self.publish(bundle, scratch)

    def _upload(self, path: Path) -> Json:
        with self._open_file(path) as content:
            return self._client.upload("/bundles", content)
