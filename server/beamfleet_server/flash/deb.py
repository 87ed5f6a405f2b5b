"""Owns a Debian package with this fleet's configuration: what makes a system that has the agent a device. No target.

It holds provision.json, which holds a token: the file is written for its owner alone. Same words, same bytes.
"""

import gzip
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from beamfleet_bundles import durable

NAME = "beamfleet-device"
MTIME = 1_767_225_600
"""Of every file in the package: 2026-01-01."""
_POSTINST = """#!/bin/sh
# Has the device lay itself down now if it runs, else at its first boot. An enrolled device keeps its identity.
set -e
[ "$1" = configure ] || exit 0
[ -z "${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ] || exit 0
systemctl restart beamfleet-setup.service
systemctl start beamfleet-launcher.service beamfleet-agent.service
"""
_CONTROL = """Package: {name}
Version: {version}
Architecture: all
Maintainer: The operator of this fleet <operator@example.invalid>
Installed-Size: {kib}
Depends: beamfleet-agent
Section: admin
Priority: optional
Description: configuration of a beamfleet device{of}
 Which server the device belongs to, and the token with which it enrols. It holds
 secrets: keep it where only the right people can read it.
"""
PROVISION, SEED = "etc/beamfleet/provision.json", "var/lib/beamfleet/seed.bundle"


def write(out: Path, words: Mapping[str, Any], bundle: Path | None, version: str = "1") -> Path:
    """Write the package to `out`, or below its own name into `out` if that is a directory; where it lies."""
    if out.is_dir():
        out = out / f"{NAME}_{version}_all.deb"
    provision = json.dumps(dict(words), sort_keys=True).encode() + b"\n"
    files = [(PROVISION, 0o600, provision)]
    if bundle:
        files.append((SEED, 0o644, bundle.read_bytes()))
    kib = sum(-(-len(content) // 1024) for _, _, content in files)
    of = f": {words['device']}" if words.get("device") else ""
    control = _CONTROL.format(name=NAME, version=version, kib=kib, of=of).encode()
    members = (
        ("debian-binary", b"2.0\n"),
        ("control.tar.gz", _tar([("control", 0o644, control), ("postinst", 0o755, _POSTINST.encode())])),
        ("data.tar.gz", _tar(files)),
    )
    durable.replace(out, b"!<arch>\n" + b"".join(_member(name, content) for name, content in members), 0o600)
    return out


def _member(name: str, content: bytes) -> bytes:
    head = f"{name:<16}{MTIME:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode("ascii")
    return head + content + b"\n" * (len(content) % 2)


def _tar(files: Iterable[tuple[str, int, bytes]]) -> bytes:
    plain, folders = io.BytesIO(), set[str]()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, mode, content in files:
            parts = path.split("/")[:-1]
            for folder in ("/".join(parts[: depth + 1]) for depth in range(len(parts))):
                if folder not in folders:
                    folders.add(folder)
                    tar.addfile(_info(f"./{folder}", 0o755, tarfile.DIRTYPE))
            info = _info(f"./{path}", mode, tarfile.REGTYPE)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return gzip.compress(plain.getvalue(), mtime=0)


def _info(name: str, mode: int, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode, info.type, info.mtime, info.uname, info.gname = mode, kind, MTIME, "root", "root"
    return info
