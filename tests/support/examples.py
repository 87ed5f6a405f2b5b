"""The releases that demo and tests push, built on demand by the examples' own build script."""

import functools
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "firmware_bundles/examples/build"


class ExampleError(Exception):
    """The build script failed; the text is what it said."""


@functools.cache
def tarball(name: str, version: str) -> Path:
    """The up-to-date tarball of sensor_gateway, edge_hub or a foreign release; ExampleError when it does not build."""
    done = subprocess.run([BUILD, f"{name}-{version}"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ExampleError(done.stderr.strip())
    return ROOT / ".build/examples" / f"{name}-{version}.tar.gz"


def names() -> set[str]:
    """The file names of all tarballs that can be built."""
    return set(subprocess.run([BUILD, "--list"], capture_output=True, text=True, check=True).stdout.split())
