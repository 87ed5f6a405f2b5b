"""Owns the manifest of `beamfleet flash --batch` on its way to work: every line becomes a job, or is refused before
anything is done to a device."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beamfleet_bundles.errors import BeamfleetError

from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.flash_options import FlashOptions, Network, Profile
from beamfleet_server.cli.labels import parse_labels

if TYPE_CHECKING:
    from beamfleet_server.flash.batch import Line

OF_LINES = ("root", "device", "ssh", "deb", "id", "id_from", "certificate", "key", "remove", "wipe")
"""Options that say what a line says, or that are for one device."""


@dataclass(frozen=True, slots=True)
class Job:
    """A line, and how it is flashed. `fingerprint`: of the device's key, where that is made already."""

    line: "Line"
    kind: str
    options: FlashOptions
    fingerprint: str


def read_manifest(path: Path, *, targets: bool = True) -> "tuple[Line, ...]":
    """The lines of a manifest; errors `file.unreadable`, `flash.batch`."""
    from beamfleet_server.flash import batch

    try:
        with path.open("rb") as file:
            content = file.read(batch.MAX_SIZE + 1)
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise CommandError("file.unreadable", f"cannot read the manifest, {path}: {why}", "check the path") from None
    if len(content) > batch.MAX_SIZE:
        raise CommandError("file.unreadable", f"{path} is too large for a manifest", "cut it into several")
    lines = batch.parse(text, path.name, path.parent, targets=targets)
    if targets:
        batch.readable(lines, path.name)
    return lines


def jobs_of(manifest: Path, options: FlashOptions, pre_made: Path | None) -> Sequence[Job]:
    """Every line as a job. Errors `usage.batch`, `usage.duration`, `file.unreadable`, `flash.batch`."""
    from beamfleet_server.cli.flash_order import life_of

    for name in OF_LINES:
        if getattr(options, name) not in (None, "", False):
            what = f"--{name.replace('_', '-').replace('certificate', 'cert')} does not go with --batch"
            raise CommandError("usage.batch", what, "the manifest has a column for it, or flash the device by itself")
    if options.count > 1:
        raise CommandError("usage.batch", "--count does not go with --batch", "a line is one device")
    if options.expires:
        life_of(options.expires)
    lines = read_manifest(manifest)
    jobs, seen = [], dict[str, int]()
    for line in lines:
        job = _job(manifest.name, line, options, pre_made)
        if seen.setdefault(job.options.id, line.number) != line.number:
            from beamfleet_server.flash.batch import misfit

            what = f"{job.options.id} is the id of line {seen[job.options.id]} already"
            raise misfit(manifest.name, line, "serial", what)
        jobs.append(job)
    return jobs


def _job(name: str, line: "Line", options: FlashOptions, pre_made: Path | None) -> Job:
    from beamfleet_server.cli.flash_order import Order, check_target
    from beamfleet_server.flash.batch import misfit
    from beamfleet_server.flash.errors import FlashError
    from beamfleet_server.flash.login import Login

    cells = line.cells
    said: dict[str, Any] = {"id": line.id_with(options.id_prefix), "id_prefix": "", "yes": True}
    said |= {key: cells[key] for key in ("image", "ssh", "hardware") if key in cells}
    said |= {key: Path(cells[key]) for key in ("root", "device", "deb", "env_file", "bundle") if key in cells}
    if "network" in cells:
        said["network"] = Network(cells["network"])
    if "profile" in cells:
        said["profile"] = Profile(cells["profile"])
    fingerprint = ""
    if pre_made:
        identity = _identity(name, line, pre_made)
        said |= {key: identity[key] for key in ("certificate", "key")}
        if line.id not in ("", identity["id"]):
            raise misfit(name, line, "id", f"the identity that is made for it is that of {identity['id']}")
        said["id"], fingerprint = identity["id"], identity["fingerprint"]
    if "device" not in cells and "image" not in cells:
        said["image"] = None  # one for all is for lines with a card
    labels = parse_labels(options.labels or ()) | dict(line.labels)
    said["labels"] = [f"{key}={value}" for key, value in labels.items()] or None
    if "ssh" in cells:
        try:
            Login(cells["ssh"])
        except FlashError as error:
            raise misfit(name, line, "ssh", error.message) from None
    own = replace(options, **said)
    try:
        kind = check_target(own)
        Order.of(own)
    except BeamfleetError as error:
        raise FlashError("flash.batch", f"{name}, line {line.number}: {error.message}", error.hint) from error
    return Job(line, kind, own, fingerprint)


def _identity(name: str, line: "Line", pre_made: Path) -> dict[str, Any]:
    """The files and facts of an identity that `device provision` has made."""
    from beamfleet_bundles import pki

    from beamfleet_server.flash.batch import misfit

    column = "serial" if line.serial else "id"
    folder = pre_made / (line.serial or line.id)
    certificate_file, key_file = folder / "cert.pem", folder / "key.pem"
    try:
        certificate = pki.load_certificate(certificate_file.read_bytes())
        key = pki.load_key(key_file)
    except OSError as error:
        raise misfit(name, line, column, f"there is no identity in {folder}: {error.strerror}") from None
    except BeamfleetError as error:
        raise misfit(name, line, column, f"there is no identity in {folder}: {error.message}") from None
    if certificate.public_key() != key.public_key():
        raise misfit(name, line, column, f"certificate and key in {folder} do not belong together")
    return {
        "id": pki.read_certificate(certificate).name,
        "certificate": certificate_file,
        "key": key_file,
        "fingerprint": pki.fingerprint(key.public_key()),
    }
