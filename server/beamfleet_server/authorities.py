"""Owns the fleet's authorities as a whole: their keys in DATA/ca, which one signs, which ones are trusted.

A new authority takes over in three steps, each of which may be the last for a while, and after each of which a kill
does no harm: `create` (trusted by the server, so that devices can be told of it), `activate` (it signs from now on),
`retire` (the old one is trusted no longer, and its key is removed). What is true is in the store; the files of keys and
certificates are written before it, and what follows from it is made again at each start.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from beamfleet_server.ca import (
    DEVICE_LIFE_S,
    FIRST,
    SERVER_LIFE_S,
    Certificate,
    FleetAuthority,
    KeyPair,
    authority_id,
)
from beamfleet_server.clock import Clock
from beamfleet_server.errors import ServerError
from beamfleet_server.store.authorities import RETIRED, AuthorityStates


@dataclass(frozen=True, slots=True)
class _Known:
    trusted: Sequence[FleetAuthority]
    """The active one is the first."""
    retired: Sequence[x509.Certificate]


class Authorities:
    """All authorities of the directory `ca`. `open` makes the first one."""

    def __init__(
        self,
        directory: Path,
        states: AuthorityStates,
        clock: Clock,
        device_life_s: int = DEVICE_LIFE_S,
        server_life_s: int = SERVER_LIFE_S,
    ) -> None:
        self._directory = directory
        self._states = states
        self._clock = clock
        self._lives = (device_life_s, server_life_s)
        self._known = _Known((), ())

    def open(self) -> "Authorities":
        """Make the first authority if there is none, and look at what there is; error `server.data_unusable`."""
        if not self._states.all():
            first = self._load(FIRST)
            self._states.begin(first.id, first.der, self._clock())
        self.look()
        return self

    def look(self) -> None:
        """Look at the states again, and remove the keys of retired authorities."""
        stems = {self._id_of(path): path.stem for path in self._directory.glob(f"{FIRST}*.pem")}
        kept = self._states.all()
        for each in kept:
            if each.state != RETIRED and each.id not in stems:
                what = f"the files of the authority {each.id} are not in {self._directory}"
                raise ServerError("server.data_unusable", what, "bring them back from a backup")
            if each.state == RETIRED and each.id in stems:
                with contextlib.suppress(FileNotFoundError):
                    (self._directory / f"{stems[each.id]}.key").unlink()
        self._known = _Known(
            [self._load(stems[each.id]) for each in kept if each.state != RETIRED],
            [x509.load_der_x509_certificate(each.der) for each in kept if each.state == RETIRED],
        )

    @property
    def active(self) -> FleetAuthority:
        """The one that signs."""
        return self._known.trusted[0]

    @property
    def trusted(self) -> Sequence[FleetAuthority]:
        """All whose certificates are good for everything, the active one first."""
        return self._known.trusted

    @property
    def pem(self) -> bytes:
        """The certificates of all that are trusted, the active one first."""
        return b"".join(each.pem for each in self._known.trusted)

    @property
    def certificates(self) -> Sequence[x509.Certificate]:
        """The same."""
        return [each.certificate for each in self._known.trusted]

    @property
    def renewable_pem(self) -> bytes:
        """The certificates of all whose devices may renew: the trusted and the retired ones."""
        return self.pem + b"".join(each.public_bytes(Encoding.PEM) for each in self._known.retired)

    def issue_device(self, device: str, public_key: ec.EllipticCurvePublicKey) -> Certificate:
        """A certificate for `device` from the active authority; error `name.device`."""
        return self.active.issue_device(device, public_key)

    def revocation_lists(self, serials: Mapping[str, int], began: int) -> bytes:
        """The signed lists (PEM) of certificates that are refused, one of each trusted authority: mosquitto wants one
        for each CA that it knows. A serial is in all of them."""
        return b"".join(each.revocation_list(serials, began) for each in self._known.trusted)

    def server_pair(self, names: Sequence[str]) -> KeyPair:
        """The server's key and certificate, from the active authority."""
        return self.active.server_pair(names)

    def client_pair(self, name: str) -> KeyPair:
        """The key and certificate with which the server is a client of its broker, from the active authority."""
        return self.active.client_pair(name)

    def create(self) -> str:
        """A new authority, trusted from now on; its id. Error `authority.too_many`."""
        self._states.check_number()
        made = FleetAuthority.create(self._directory, self._clock, *self._lives)
        self._states.add(made.id, made.der, self._clock())
        self.look()
        return made.id

    def activate(self, authority: str) -> None:
        """Let it sign; errors as `AuthorityStates.activate`."""
        self._states.activate(authority)
        self.look()

    def retire(self, authority: str, *, force: bool) -> None:
        """Trust it no longer; errors as `AuthorityStates.retire`."""
        self._states.retire(authority, force=force)
        self.look()

    def _load(self, stem: str) -> FleetAuthority:
        return FleetAuthority.open(self._directory, self._clock, *self._lives, stem=stem)

    def _id_of(self, path: Path) -> str:
        return authority_id(x509.load_pem_x509_certificate(path.read_bytes()))
