"""Owns signing with keys that lie elsewhere, in a PKCS#11 token or a key service, by what securesystemslib can open.

Which key speaks for which role is decided by others. A signer here is named by a URI and its public half; whatever it
gives is verified before anybody relies on it, since a token may hold another key than the one that was meant.
"""

from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, Key, SecretsHandler, Signature, Signer

from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.keys import Ask

SCHEMES = frozenset(SIGNER_FOR_URI_SCHEME)
"""The schemes of URIs that securesystemslib knows, each with requirements of its own."""


class ElsewhereSigner(Signer):
    """Signs with the key that `uri` means; `key` is its public half, `ask` gives a PIN, at most once.

    Errors `trust.signer_scheme`, `trust.signer_failed`.
    """

    def __init__(self, uri: str, key: Key, ask: Ask) -> None:
        self._uri, self._key, self._ask = uri, key, ask
        self._secrets: dict[str, str] = {}
        self._signer = self._open()

    @property
    def public_key(self) -> Key:
        return self._key

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> "ElsewhereSigner":
        return cls(priv_key_uri, public_key, secrets_handler or (lambda _: ""))

    def sign(self, payload: bytes) -> Signature:
        """The signature of `payload`, verified."""
        try:
            signature = self._signer.sign(payload)
        except BundleError:
            raise
        except Exception as error:
            raise self._failed(error) from error
        try:
            self._key.verify_signature(signature, payload)
        except Exception as error:
            raise BundleError(
                "trust.signer_failed",
                f"{self._uri} signs with another key than {self._key.keyid[:8]}",
                "is it the right token, and the right public half?",
            ) from error
        return signature

    def _open(self) -> Signer:
        scheme = self._uri.partition(":")[0]
        if scheme not in SCHEMES:
            raise BundleError(
                "trust.signer_scheme",
                f"no signer is known for {self._uri[:80]!r}",
                f"the URI begins with one of {', '.join(sorted(SCHEMES))} and a colon",
            )
        try:
            return Signer.from_priv_key_uri(self._uri, self._key, self._secret)
        except BundleError:
            raise
        except Exception as error:
            raise self._failed(error) from error

    def _secret(self, name: str) -> str:
        if name not in self._secrets:
            self._secrets[name] = self._ask(name)
        return self._secrets[name]

    def _failed(self, error: Exception) -> BundleError:
        hint = "is the token there, the service reachable, and the secret right?"
        if isinstance(error, UnsupportedLibraryError | ImportError):
            hint = "install what this kind of signer needs beside beamfleet"
        said = str(error) or type(error).__name__
        return BundleError("trust.signer_failed", f"{self._uri} cannot sign: {said[:300]}", hint)
