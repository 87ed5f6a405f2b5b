"""`./dev bench footprint`: what the device side takes of a device's storage, as dpkg lists it, byte code included.

Makes the Debian packages of the architectures and reads each with dpkg-deb. A file counts as dpkg counts it for
Installed-Size: in whole KiB, and each directory and link as one.
"""

import argparse
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.bench.result import as_json, machine
from tests.support.packaged import package

ARCHITECTURES = ("arm64", "amd64")
BOUND_MB = 10.0
SITE = "/site-packages/"
PARTS_SHOWN = 12
CRYPTOGRAPHY = ("cryptography",)
"""What is left out for the second figure: the package itself, not the backend of cffi that it needs as well."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """One package: bytes of its file, and KiB of its parts once it is installed."""

    download: int
    parts: Counter[str]

    @property
    def installed_mb(self) -> float:
        """All of it, in units of 1,000,000 bytes."""
        return self.parts.total() * 1024 / 1e6

    @property
    def without_cryptography_mb(self) -> float:
        """The same without the one dependency that is more than the rest."""
        return self.installed_mb - sum(self.parts[name] for name in CRYPTOGRAPHY) * 1024 / 1e6


def footprint(deb: Path) -> Footprint:
    """What dpkg-deb says of a package."""
    listed = subprocess.run(["dpkg-deb", "--contents", deb], capture_output=True, text=True, check=True).stdout
    parts: Counter[str] = Counter()
    for line in listed.splitlines():
        mode, _, size, _, _, path, *_ = line.split()
        parts[part_of(path)] += -(-int(size) // 1024) if mode.startswith("-") else 1
    return Footprint(deb.stat().st_size, parts)


def part_of(path: str) -> str:
    """The Python package that a file belongs to, or where it lies."""
    _, found, inside = path.partition(SITE)
    if found and inside:
        return inside.split("/")[0].split(".")[0].split("-")[0]
    return "/".join(path.lstrip(".").split("/")[:5]).rstrip("/") if "/beamfleet/" in path else "documents and units"


def main() -> None:
    parser = argparse.ArgumentParser(prog="./dev bench footprint", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    as_object = parser.parse_args().json
    print(machine())
    figures: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for arch in ARCHITECTURES:
            found = footprint(package(Path(scratch), arch=arch))
            figures[f"installed_mb_{arch}"] = found.installed_mb
            figures[f"installed_mb_{arch}_without_cryptography"] = found.without_cryptography_mb
            figures[f"download_mb_{arch}"] = found.download / 1e6
            print(f"\n{arch}: {found.download / 1e6:.1f} MB to fetch, {found.installed_mb:.1f} MB installed")
            for name, kib in found.parts.most_common(PARTS_SHOWN):
                print(f"  {kib * 1024:>12,d} bytes  {name}")
            rest = sum(kib for _, kib in found.parts.most_common()[PARTS_SHOWN:])
            print(f"  {rest * 1024:>12,d} bytes  the rest")
            bound = f" (at most {BOUND_MB:.0f})" if arch == "arm64" else ""
            print(f"  {found.without_cryptography_mb:.2f} MB without cryptography{bound}")
    if as_object:
        print(as_json("footprint", figures))


if __name__ == "__main__":
    main()
