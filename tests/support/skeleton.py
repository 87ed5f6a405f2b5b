"""A release as small as one can be, in memory, for tests that break one thing about it; and tarballs of anything.

Its executables are a real ELF file of this machine, so what is read from them is what is read from a real ERTS.
"""

import io
import shutil
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

ERTS = "13.1.5"
MACHINE_ELF = Path(shutil.which("true") or "/bin/true").read_bytes()
APPLICATIONS = {"kernel": "8.5.3", "stdlib": "4.2", "my_app": "1.0.0"}
BINARIES = ("erlexec", "beam.smp", "erl_child_setup", "heart", "epmd")

Files = dict[str, bytes]


def beam(*chunks: tuple[bytes, bytes]) -> bytes:
    """A BEAM container of these chunks, after one of code."""
    body = b"BEAM"
    for name, content in ((b"Code", b"code"), *chunks):
        body += name + len(content).to_bytes(4) + content + bytes(-len(content) % 4)
    return b"FOR1" + len(body).to_bytes(4) + body


def rel(name: str, version: str, erts: str = ERTS, applications: Mapping[str, str] = APPLICATIONS) -> bytes:
    """A `.rel` file."""
    listed = ",\n".join(f'  {{{app},"{app_version}"}}' for app, app_version in applications.items())
    return f'%% made by a test\n{{release,{{"{name}","{version}"}},\n {{erts,"{erts}"}},\n [{listed}]}}.\n'.encode()


def boot(*variables: str) -> bytes:
    """What a boot script begins with, and paths with these variables."""
    paths = b"".join(b"k\0\x10$%s/my_app-1.0.0/ebin" % name.encode() for name in ("ROOT", *variables))
    return b"\x83h\x03d\0\x06script" + paths


def release(kind: str = "relx", name: str = "my_app", version: str = "1.0.0") -> Files:
    """The files of a release as relx, mix or systools lay it out."""
    files = {f"erts-{ERTS}/bin/{binary}": MACHINE_ELF for binary in BINARIES}
    for app, app_version in APPLICATIONS.items():
        folder = f"lib/{app}-{app_version}/ebin"
        files[f"{folder}/{app}.app"] = f"{{application,{app},[]}}.\n".encode()
        files[f"{folder}/{app}.beam"] = beam()
    folder = f"releases/{version}"
    files[f"{folder}/{name}.rel"] = rel(name, version)
    files[f"{folder}/start.boot"] = boot(*(("RELEASE_LIB",) if kind == "mix" else ()))
    if kind != "systools":
        files["releases/start_erl.data"] = f"{ERTS} {version}".encode()
        files[f"{folder}/sys.config"] = b"[].\n"
        files[f"{folder}/vm.args"] = b"+K true\n"
        files[f"bin/{name}"] = b'#!/bin/sh\nPRE_START_HOOKS=""\n'
    else:
        files[f"releases/{name}.rel"] = rel(name, version)
    if kind == "mix":
        files[f"{folder}/env.sh"] = b"#!/bin/sh\n"
        files[f"{folder}/elixir"] = b"#!/bin/sh\n"
        files["releases/COOKIE"] = b"a-very-secret-cookie"
    return files


def header(
    path: str, size: int = 0, mode: int = 0o644, kind: bytes = tarfile.REGTYPE, target: str = ""
) -> tarfile.TarInfo:
    """A tar header for `tarball`."""
    info = tarfile.TarInfo(path)
    info.size, info.mode, info.type, info.linkname = size, mode, kind, target
    return info


def members(files: Mapping[str, bytes]) -> list[tuple[tarfile.TarInfo, bytes]]:
    """These files as members, executable where the release's programs are."""
    return [(header(path, len(data), 0o755 if "/bin/" in f"/{path}" else 0o644), data) for path, data in files.items()]


def tar(contents: Iterable[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar archive of these members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info, data in contents:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def gzip(data: bytes) -> bytes:
    """Quickly compressed, without a time."""
    compressor = zlib.compressobj(1, wbits=31)
    return compressor.compress(data) + compressor.flush()


def write(folder: Path, files: Mapping[str, bytes], extra: Iterable[tuple[tarfile.TarInfo, bytes]] = ()) -> Path:
    """A `.tar.gz` of these files and members in `folder`."""
    path = folder / "release.tar.gz"
    path.write_bytes(gzip(tar([*members(files), *extra])))
    return path


def lay_out(folder: Path, files: Mapping[str, bytes]) -> Path:
    """The same files as a directory."""
    for info, data in members(files):
        place = folder / info.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        place.chmod(info.mode)
    return folder
