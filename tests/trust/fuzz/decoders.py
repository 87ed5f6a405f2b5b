"""The decoders: each takes bytes and returns, or raises a `BundleError` with a code. Anything else is our fault."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from beamfleet_agent import health, reports
from beamfleet_bundles import assignment, chain, launch, manifest, messages, pack
from beamfleet_bundles.assignment import Assignment
from beamfleet_bundles.errors import BundleError
from securesystemslib.formats import encode_canonical
from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from tests.support import manifests
from tests.support.repository import NOW, PRODUCT, TARGET, Repository

CORPUS = Path(__file__).parents[1] / "corpus"
DEVICE = "gw-1"
ANSWER = {
    "v": 2, "boot": 3, "otp": "25", "uptime_ms": 1000, "memory": {"total": 7}, "processes": [40, 262_144],
    "run_queue": 0, "schedulers": [2, 13], "restarts": 1, "queues": [["gateway", 100_000]], "said": ["degraded", "why"],
    "applications": [["kernel", "8.5"]], "metrics": {"celsius": 21.5}, "probes": {"liveness": ["failed", "timeout"]},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Decoder:
    """`decode` is tried; `seeds` are inputs that it understands."""

    decode: Callable[[bytes], object]
    seeds: Sequence[bytes]

    def take(self, data: bytes) -> bool:
        """Whether `data` is good. Any exception but a `BundleError` with a code is a finding."""
        try:
            self.decode(data)
        except BundleError as error:
            if "." not in error.code or not error.message.isprintable():
                raise AssertionError(error.code, error.message) from error
            return False
        return True


def kept(name: str) -> list[bytes]:
    """The inputs that are kept for a decoder."""
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]


def decoders() -> dict[str, Decoder]:
    """All of them, by name."""
    fleet = Repository()
    targets = chain.parse_top_targets(fleet.current["targets"]).signed
    director = fleet.keys["director"][0]
    path = f"{PRODUCT}/1.0.0/{TARGET}/manifest"
    said = Assignment(
        device=DEVICE, app="main", sequence=7, attempt=1, time=int(NOW.timestamp()), nonce="ab" * 16,
        path=path, length=100, sha256="0" * 64,
    )  # fmt: skip
    assigned = assignment.sign(said, director, NOW + timedelta(days=30))

    def assigned_to(data: bytes) -> object:
        return assignment.verify(data, targets, device=DEVICE, app="main", last=0, now=NOW)

    def signed_assignment(data: bytes) -> object:
        """As a thief of the director's key would have it: whatever is said is signed."""
        try:
            signed = json.loads(data)
            signature = director.sign((encode_canonical(signed) or "").encode())
        except (ValueError, TypeError, RecursionError, AttributeError):
            return None
        except Exception as error:  # what cannot be written canonically cannot be signed
            if type(error).__name__ != "FormatError":
                raise
            return None
        document = {"signatures": [{"keyid": signature.keyid, "sig": signature.signature}], "signed": signed}
        return assigned_to(json.dumps(document).encode())

    contents = manifests.contents()
    plain = manifests.manifest()
    packed = io.BytesIO()
    pack.write_pack(plain, lambda entry: io.BytesIO(contents[entry.path]), packed)
    roles = [*fleet.current.values(), assigned]

    def metadata(data: bytes) -> object:
        kind = (Root, Targets, Snapshot, Timestamp)[data[0] % 4] if data else Root
        parse = {
            Root: chain.parse_root, Targets: chain.parse_top_targets,
            Snapshot: chain.parse_snapshot, Timestamp: chain.parse_timestamp,
        }  # fmt: skip
        return parse[kind](data[1:])

    kinds = sorted(messages.MAX_SIZES)

    def message(data: bytes) -> object:
        return messages.decode(kinds[data[0] % len(kinds)] if data else "state", data[1:])

    def answer(data: bytes) -> object:
        """What a release says of itself must become a report that the server takes, or nothing."""
        sample = health.read_sample(data)
        if sample is None:
            raise BundleError("message.schema", "this is no answer of beamfleet_link")
        outcomes = {kind: ["ok", why] for kind, (_, why) in sample.probes.items()}
        sections = {"beam": dict(sample.beam), "applications": sample.running, "probes": outcomes}
        report = reports.dump({"time": 1, "verdict": "healthy", "starts": 1, **sections})
        try:
            return messages.decode("health", report)
        except BundleError as error:
            raise AssertionError(error.code, report) from error

    golden = Path(__file__).parents[2] / "firmware_bundles/golden"
    samples = [json.loads(line) for path in golden.glob("messages.*") for line in path.read_text().splitlines()]
    lines = [bytes([kinds.index(each["kind"])]) + json.dumps(each["message"]).encode() for each in samples]
    return {
        "manifest": Decoder(manifest.decode, [plain.encode()]),
        "launch": Decoder(launch.parse, [manifests.LAUNCH.encode()]),
        "message": Decoder(message, lines),
        "answer": Decoder(answer, [json.dumps(ANSWER).encode()]),
        "metadata": Decoder(metadata, [bytes([number]) + role for number in range(4) for role in roles]),
        "assignment": Decoder(assigned_to, [assigned]),
        "signed-assignment": Decoder(signed_assignment, [json.dumps(json.loads(assigned)["signed"]).encode()]),
        "pack": Decoder(lambda data: pack.verify([data], plain), [packed.getvalue()]),
    }
