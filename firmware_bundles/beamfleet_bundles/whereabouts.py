"""Owns where the fleet's server is and which authorities vouch for it, as the owners of the targets role sign it.

The signed part of the top targets metadata may carry one object more, a closed schema:

    "beamfleet": {"authorities": [PEM, ...], "servers": [{"api": URL, "enrol": URL, "mqtt": HOST:PORT}, ...]}

It is how the fleet's authority and the name of its server change without a visit to any device: signed offline, so that
a thief of the server cannot lead the fleet away. What is empty or missing is as the device was laid down with. Pure:
reads no file, asks no network, looks at no date.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from tuf.api.metadata import Targets

from beamfleet_bundles.errors import BundleError

KEY: Final = "beamfleet"
MAX_AUTHORITIES: Final = 8
MAX_SERVERS: Final = 8
MAX_PEM: Final = 4_096
"""Longest certificate of an authority, in characters of PEM."""

_HOST = r"(?:[0-9A-Za-z](?:[0-9A-Za-z.-]{0,251}[0-9A-Za-z])?|\[[0-9A-Fa-f:.]{2,45}\])"
_URL = rf"\Ahttps://{_HOST}:[0-9]{{1,5}}\Z"
_PLACE = rf"\A{_HOST}:[0-9]{{1,5}}\Z"
Url = Annotated[str, msgspec.Meta(max_length=300, pattern=_URL)]
Place = Annotated[str, msgspec.Meta(max_length=300, pattern=_PLACE)]
Pem = Annotated[str, msgspec.Meta(max_length=MAX_PEM)]


class Addresses(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One server, or one way to it: `https://HOST:PORT` twice, and `HOST:PORT` of the broker."""

    api: Url
    enrol: Url
    mqtt: Place


class Whereabouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The authorities (PEM, one certificate each) and the servers, the preferred one first; both may be empty."""

    authorities: Annotated[tuple[Pem, ...], msgspec.Meta(max_length=MAX_AUTHORITIES)] = ()
    servers: Annotated[tuple[Addresses, ...], msgspec.Meta(max_length=MAX_SERVERS)] = ()

    @property
    def bundle(self) -> bytes:
        """The authorities as one PEM file; empty if none are named."""
        return "".join(self.authorities).encode()


def make(authorities: Sequence[str | bytes], servers: Sequence[dict[str, str]]) -> Whereabouts:
    """Checked whereabouts; what stands around a certificate in its PEM is left out.

    Errors `whereabouts.schema`, `whereabouts.address`, `whereabouts.authority`.
    """
    return _checked({"authorities": [_own_words(pem) for pem in authorities], "servers": list(servers)})


def read(targets: Targets) -> Whereabouts:
    """What `targets` says of them; errors as `make`. Its signatures are for others to check."""
    return _checked(targets.unrecognized_fields[KEY]) if KEY in targets.unrecognized_fields else Whereabouts()


def write(targets: Targets, whereabouts: Whereabouts) -> None:
    """Makes `targets`, which is to be signed again, say `whereabouts`; the empty ones take the object away."""
    targets.unrecognized_fields.pop(KEY, None)
    if whereabouts != Whereabouts():
        targets.unrecognized_fields[KEY] = describe(whereabouts)


def describe(whereabouts: Whereabouts) -> dict[str, Any]:
    """The object that is signed."""
    said: dict[str, Any] = msgspec.to_builtins(whereabouts)
    return said


def spell(server: Addresses) -> dict[str, str]:
    """One server as it is signed."""
    return {"api": server.api, "enrol": server.enrol, "mqtt": server.mqtt}


def _checked(said: Any) -> Whereabouts:
    try:
        found = msgspec.convert(said, Whereabouts, strict=True)
    except (msgspec.ValidationError, RecursionError) as error:
        raise BundleError("whereabouts.schema", f"the signed whereabouts do not fit: {_shown(error)}") from None
    for server in found.servers:
        for address in (server.api, server.enrol, server.mqtt):
            if not 0 < int(address.rpartition(":")[2]) < 65_536:
                raise BundleError("whereabouts.address", f"{address} has no port from 1 to 65535")
    for pem in found.authorities:
        if _own_words(pem) != pem:
            raise BundleError("whereabouts.authority", "there is more than one bare certificate in an authority's PEM")
    if len(set(found.authorities)) < len(found.authorities) or len(set(found.servers)) < len(found.servers):
        raise BundleError("whereabouts.schema", "the signed whereabouts name something twice")
    return found


def _own_words(pem: str | bytes) -> str:
    """The one authority in `pem` in our spelling: PEM may be wrapped in any words, and in others' line lengths."""
    data = pem.encode("utf-8", "replace") if isinstance(pem, str) else pem
    try:
        (certificate,) = x509.load_pem_x509_certificates(data)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        text = certificate.public_bytes(Encoding.PEM).decode()
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound):
        constraints, text = None, ""
    if constraints is None or not constraints.ca:
        raise BundleError(
            "whereabouts.authority",
            "an authority is not one certificate of an authority in PEM",
            "give the certificates that `GET /server` shows as authorities",
        )
    return text


def _shown(error: Exception) -> str:
    """What msgspec says, without its regular expressions, and nothing that is not plain."""
    text = re.sub(r"Expected `str` matching regex '.*'", "an address is not https://HOST:PORT or HOST:PORT", str(error))
    return ascii(text[:200])[1:-1]
