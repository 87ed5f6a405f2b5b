"""Owns the identities of simulated devices: a directory with a key and a certificate for each, enrolled over EST.

Keys are EC P-256 and made here, as on a device. What has a certificate is used again; a directory belongs to one fleet.
"""

import fcntl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
from beamfleet_bundles import durable, pki
from beamfleet_bundles.errors import BundleError
from cryptography.hazmat.primitives.asymmetric import ec

from beamfleet_server.simulator.errors import SimulatorError

TIMEOUT_S = 60
WORKERS = 4

Token = Callable[[Mapping[str, str], int], str]
"""(labels, count) -> a token with which so many new devices enrol."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Where a fleet is: URLs `api` and `enrol`, `mqtt` as HOST:PORT; its authorities (PEM), and its first root."""

    api: str
    enrol: str
    mqtt: str
    authorities: str
    root: bytes


class Identities:
    """The identities in `directory`; nobody else may use it meanwhile (see `held`)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def trust(self) -> Path:
        """Where the signed metadata is."""
        return self.directory / "trust"

    @property
    def authorities(self) -> Path:
        """The fleet's authorities, PEM."""
        return self.directory / "ca.pem"

    def pair(self, device: str) -> Path:
        """Certificate and key of a device, one PEM file."""
        return self.directory / "pairs" / f"{device}.pem"

    def names(self) -> list[str]:
        """Who is enrolled."""
        return sorted(path.stem for path in (self.directory / "pairs").glob("*.pem"))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the directory; error `simulate.in_use`."""
        (self.directory / "pairs").mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        with (self.directory / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                hint = "end the other one, or use another --prefix or --state"
                raise SimulatorError("simulate.in_use", f"{self.directory} is in use", hint) from None
            yield

    def belong(self, fleet: Fleet) -> None:
        """See that the directory is of this fleet, or new; error `simulate.other_fleet`."""
        root = self.directory / "root.json"
        known = root.read_bytes() if root.exists() else fleet.root
        if known != fleet.root:
            hint = "use another --state, or remove the old devices with the context that they belong to"
            raise SimulatorError("simulate.other_fleet", f"{self.directory} has devices of another fleet", hint)
        durable.replace(root, fleet.root, 0o600)
        durable.replace(self.authorities, fleet.authorities.encode(), 0o600)

    def enrol(
        self, fleet: Fleet, labels: Mapping[str, Mapping[str, str]], token: Token, done: Callable[[int, int], None]
    ) -> int:
        """Enrol those of `labels` (by device) that are not; how many that were. done: told (so many, of how many).

        Errors `simulate.enrolment`, and what the server says to the first one that it refuses.
        """
        groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
        for device, given in labels.items():
            if not self.pair(device).exists():
                groups.setdefault(tuple(sorted(given.items())), []).append(device)
        missing = sum(map(len, groups.values()))
        asked = [
            (device, token(dict(given), len(members))) for given, members in groups.items() for device in members[:1]
        ]
        words = {given: word for given, (_, word) in zip(groups, asked, strict=True)}
        jobs = [(device, words[given]) for given, members in groups.items() for device in members]
        desk = _Desk(self, fleet)
        with ThreadPoolExecutor(WORKERS) as pool:
            try:
                for count, _ in enumerate(pool.map(desk.enrol, jobs), 1):
                    done(count, missing)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return missing

    def forget(self, devices: Iterable[str]) -> None:
        """Delete what is kept of these."""
        for device in devices:
            self.pair(device).unlink(missing_ok=True)


class _Desk:
    """Enrols one device after the other, over one connection for each thread."""

    def __init__(self, identities: Identities, fleet: Fleet) -> None:
        self._identities, self._fleet, self._local = identities, fleet, threading.local()

    def enrol(self, job: Sequence[str]) -> None:
        device, token = job
        key = ec.generate_private_key(ec.SECP256R1())
        url = f"{self._fleet.enrol}/.well-known/est/simpleenroll"
        try:
            answer = self._session().post(
                url,
                pki.encode_body(pki.make_request(key, device)),
                headers={"Content-Type": "application/pkcs10"},
                auth=(device, token),
                timeout=TIMEOUT_S,
                allow_redirects=False,
            )
        except (requests.exceptions.RequestException, OSError) as error:
            raise SimulatorError("simulate.enrolment", f"{device} cannot enrol at {url}: {error}") from error
        if answer.status_code != 200:
            raise _refused(device, answer)
        try:
            (certificate,) = pki.unpack_certificates(pki.decode_body(answer.content, pki.MAX_RESPONSE))
            pki.check_issued(certificate, key, device, pki.load_certificates(self._fleet.authorities.encode()))
        except (BundleError, ValueError) as error:
            raise SimulatorError("simulate.enrolment", f"{device} was answered with no certificate: {error}") from error
        pair = self._identities.pair(device)
        made = pair.with_suffix(".new")
        made.touch(0o600)
        made.write_bytes(pki.join_pair(certificate, key))
        made.replace(pair)

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.verify, session.trust_env = str(self._identities.authorities), False
        return session


def _refused(device: str, answer: requests.Response) -> SimulatorError:
    try:
        problem = answer.json()
        what = f"{problem.get('detail') or problem['title']} ({problem['code']})"
    except (ValueError, KeyError, TypeError, AttributeError):
        what = f"status {answer.status_code}"
    hint = "devices of this name are enrolled already and their keys are not here: use another --prefix"
    return SimulatorError("simulate.enrolment", f"{device} is not enrolled: {what}", hint if "exists" in what else "")
