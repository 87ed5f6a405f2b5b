"""Owns the files that say who this device is. Asks nobody for a certificate; `enrol` and `renew` do.

    key.pem           the first key, whose certificate has not come yet; never overwritten
    key.pem cert.pem  a pair that somebody laid there by hand: taken over into pair.pem
    pair.pem          certificate and key that this device uses, in one file: one rename changes both
    next.key          the next key, whose certificate has not come yet
    next.pem          the next pair, which has not proven itself yet
    old-BOOT.pem      the pair before this one, left in that boot of the kernel
    tried             for which authorities a renewal brought nothing

These files are their own journal. Each step is one durable replacement, and whoever comes next sees from what lies
there how far it got; pair.pem is whole and good at every moment.
"""

import os
from pathlib import Path
from typing import NamedTuple

from beamfleet_bundles import durable, pki
from beamfleet_bundles.errors import BundleError
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from beamfleet_agent.errors import AgentError
from beamfleet_agent.paths import Paths

KEPT_S = 7 * 86_400
"""How long an old pair is kept at most, once the new one has been used."""
_NO_BOOT = "0" * 32


class Pair(NamedTuple):
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def facts(self) -> pki.CertificateFacts:
        """What the certificate says."""
        return pki.read_certificate(self.certificate)


class Identity:
    """The files in identity/ of one device."""

    def __init__(self, paths: Paths, device: str) -> None:
        self._paths, self._device = paths, device
        self._folder = Path(paths.identity)
        self._folder.mkdir(mode=0o700, exist_ok=True)

    def current(self) -> Pair | None:
        """The pair in use, None before enrolment. Errors `pki.*`.

        One that the disk has damaged is replaced by the one before it, if that is there.
        """
        if not os.path.exists(self._paths.pair):
            return None
        try:
            found = Pair(*pki.load_pair(Path(self._paths.pair)))
        except BundleError:
            good = next(filter(self.is_good, self.olds()), None)
            if good is None:
                raise
            self.go_back(good)
            found = Pair(*pki.load_pair(Path(self._paths.pair)))
        if found.facts.name != self._device:
            raise BundleError("pki.not_ours", f"the certificate is for {found.facts.name!r}, not for {self._device}")
        return found

    def tidy(self) -> None:
        """Remove what a cut left half written: no key stays on the disk for nothing."""
        torn = list(self._folder.glob(".*.new"))
        for path in torn:
            path.unlink()
        if torn:
            durable.sync_directory(self._folder)

    # --- the first pair

    def adopt(self) -> None:
        """Take over key.pem and cert.pem if there is no pair yet; errors `pki.*`."""
        key, certificate = Path(self._paths.key), Path(self._paths.cert)
        if os.path.exists(self._paths.pair) or not (key.exists() and certificate.exists()):
            return
        pair = pki.read_pair(certificate.read_bytes() + key.read_bytes(), str(key))
        self.keep(Pair(*pair))

    def first_key(self) -> ec.EllipticCurvePrivateKey:
        """The key to enrol with, made now or earlier."""
        path = Path(self._paths.key)
        return pki.load_key(path) if path.exists() else pki.create_key(path)

    def keep(self, pair: Pair) -> None:
        """Makes `pair` the one in use; what it was made of goes."""
        durable.replace(self._paths.pair, pki.join_pair(*pair), 0o600)
        for name in (self._paths.cert, self._paths.key, self._paths.token):
            Path(name).unlink(missing_ok=True)
        durable.sync_directory(self._folder)

    # --- the next pair

    def next_key(self) -> ec.EllipticCurvePrivateKey:
        """The key to renew with; one that a cut left unreadable is made anew."""
        path = Path(self._paths.next_key)
        try:
            return pki.load_key(path)
        except BundleError:
            path.unlink(missing_ok=True)
            return pki.create_key(path)

    def receive(self, pair: Pair) -> None:
        """Keep what came for the next key; it is not used yet."""
        durable.replace(self._paths.next_pair, pki.join_pair(*pair), 0o600)
        Path(self._paths.next_key).unlink(missing_ok=True)
        durable.sync_directory(self._folder)

    def next(self) -> Pair | None:
        """The pair that has not proven itself, if there is a good one that is not in use already."""
        try:
            found = pki.load_pair(Path(self._paths.next_pair))
        except BundleError:
            return None
        return Pair(*found)

    def drop_next(self) -> None:
        """The next pair is no good."""
        Path(self._paths.next_pair).unlink(missing_ok=True)
        durable.sync_directory(self._folder)

    def switch(self, boot: str) -> None:
        """Use the next pair from now on, and keep the one before it; `boot`: the kernel's id of this boot."""
        kept = self._folder / f"old-{boot or _NO_BOOT}.pem"
        durable.replace(kept, Path(self._paths.pair).read_bytes(), 0o600)
        os.utime(kept)
        os.replace(self._paths.next_pair, self._paths.pair)
        Path(self._paths.next_key).unlink(missing_ok=True)  # a cut may have kept it: the next renewal is for a new key
        durable.sync_directory(self._folder)
        for older in self.olds():
            if older != kept:
                older.unlink()
        durable.sync_directory(self._folder)

    # --- the pair before

    def olds(self) -> list[Path]:
        """The files of pairs that were in use before; one, but for a cut."""
        return sorted(self._folder.glob("old-*.pem"))

    @staticmethod
    def is_good(old: Path) -> bool:
        """Whether this file holds a whole pair."""
        try:
            pki.load_pair(old)
        except BundleError:
            return False
        return True

    def go_back(self, old: Path) -> None:
        """Use this pair again, instead of the one that is in use."""
        os.replace(old, self._paths.pair)
        durable.sync_directory(self._folder)

    def settle(self, boot: str, now: float) -> None:
        """The pair in use has been used: the one before goes, after a boot or a week in between."""
        gone = [
            old for old in self.olds()
            if old.name != f"old-{boot or _NO_BOOT}.pem" or now - old.stat().st_mtime > KEPT_S
        ]  # fmt: skip
        for old in gone:
            old.unlink()
        if gone:
            durable.sync_directory(self._folder)

    # --- what was tried

    def has_tried(self, authorities: str) -> bool:
        """Whether a renewal for these authorities (a hash) is known to bring nothing better."""
        try:
            return Path(self._paths.tried).read_text(encoding="ascii") == authorities
        except (OSError, UnicodeDecodeError):
            return False

    def note_tried(self, authorities: str) -> None:
        """A renewal for these authorities brought a certificate of another one than the first of them."""
        durable.replace(self._paths.tried, authorities.encode())


def required(pair: Pair | None, device: str) -> Pair:
    """`pair`; error `enrol.not_enrolled` if there is none."""
    if pair is None:
        hint = f"it enrols by itself, with a token or when somebody accepts it: `beamfleet device show {device}`"
        raise AgentError("enrol.not_enrolled", "this device has no certificate yet", hint)
    return pair
