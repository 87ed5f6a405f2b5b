"""Owns telling what release a tree holds, and whether it is whole: kind, name, version, ERTS, applications.

relx, mix and systools lay a release out alike: `releases/`, `erts-E/`, `lib/APP-V/`. Whatever is missing is named with
what has to be set to get it. How the release starts is the business of `start`.
"""

import re
from dataclasses import dataclass
from typing import Any

from beamfleet_bundles.build import erlterm
from beamfleet_bundles.build.tree import Tree
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.launch import Kind
from beamfleet_bundles.manifest import Application, Release
from beamfleet_bundles.paths import link_problem

FIRST_OTP = 25
"""Oldest Erlang/OTP whose releases run under beamfleet: beamfleet_link is compiled for it."""
_TEXT = 1 << 20
_STARTS = ("permanent", "transient", "temporary", "load", "none")
_ERTS_BINARIES = ("erlexec", "beam.smp", "erl_child_setup", "heart")
_WORD = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.+~-]{0,127}")
_DEVELOPMENT = re.compile(r"erts-[^/]+|lib/[^/]+-[0-9][^/]*(/(ebin|priv|src|include))?|releases/[^/]+/[^/]+")
_NOT_A_RELEASE_HINT = (
    "give what `rebar3 as prod tar`, `mix release` with steps: [:assemble, :tar], or systools:make_tar/2 made, "
    "or the release's directory"
)


@dataclass(frozen=True, slots=True)
class Found:
    """A whole release; `version` is that of its `.rel` file, whatever it is published as."""

    release: Release
    version: str

    @property
    def folder(self) -> str:
        """Where the release's own files lie."""
        return f"releases/{self.version}"


def detect(tree: Tree) -> Found:
    """The release in `tree`. Errors: `release.*`, each with its remedy."""
    check_not_development(tree)
    name, version, erts, applications = _rel(tree)
    kind = _kind(tree, version)
    _check_erts(tree, kind, erts)
    for application in applications:
        folder = f"lib/{application.name}-{application.version}"
        if f"{folder}/ebin/{application.name}.app" not in tree.files:
            remedy = {"relx": "set {system_libs, true} and build with `rebar3 as prod tar`", "mix": "build it again"}
            raise BundleError(
                "release.no_application", f"the release lacks {folder}", remedy.get(kind, "pack it again")
            )
    otp = int(erts.split(".")[0]) + 12  # ERTS 13 came with OTP 25, and both have counted up together since OTP 23
    if otp < FIRST_OTP:
        raise BundleError(
            "release.otp_too_old", f"the release is of Erlang/OTP {otp}", f"build it with OTP {FIRST_OTP} or later"
        )
    return Found(Release(name, kind, erts, otp, applications), version)


def check_not_development(tree: Tree) -> None:
    """Refuse what a development build leaves: links from the release into the project; error `release.dev_mode`."""
    folders = tree.folders()
    for path, target in sorted(tree.links.items()):
        if _DEVELOPMENT.fullmatch(path) and "outside" in link_problem(path, tree.links, tree.files, folders):
            raise BundleError(
                "release.dev_mode",
                f"this is a development build: {path} is a link to {target[:160]}",
                "set {mode, prod} or {dev_mode, false} in relx and build with `rebar3 as prod tar`",
            )


def _rel(tree: Tree) -> tuple[str, str, str, tuple[Application, ...]]:
    """(name, version, ERTS, applications) of the release, of which there must be one."""
    paths = [path for path in sorted(tree.files) if re.fullmatch(r"releases/([^/]+/)?[^/]+\.rel", path)]
    active: tuple[str, ...] = ()
    if "releases/start_erl.data" in tree.files:
        active = tuple(tree.read("releases/start_erl.data", 1024).decode(errors="replace").split())
        if len(active) != 2:
            raise BundleError(
                "release.broken", "releases/start_erl.data is not `ERTS VERSION`", "build the release again"
            )
        paths = [path for path in paths if path.startswith(f"releases/{active[1]}/")]
    if not paths:
        raise BundleError("release.not_a_release", "this holds no release: there is no .rel file", _NOT_A_RELEASE_HINT)
    found = {term[:3]: term for term in (_read_rel(tree, path) for path in paths)}
    if len(found) > 1:
        names = ", ".join(f"{name} {version}" for name, version, _ in found)
        raise BundleError("release.several", f"this holds more than one release: {names}", "pack one release at a time")
    ((name, version, erts, applications),) = found.values()
    if active and active != (erts, version):
        message = f"releases/start_erl.data says {' '.join(active)}, {paths[0]} says {erts} {version}"
        raise BundleError("release.broken", message, "build the release again")
    return name, version, erts, applications


def _read_rel(tree: Tree, path: str) -> tuple[str, str, str, tuple[Application, ...]]:
    data = tree.read(path, _TEXT)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    try:
        match erlterm.parse(text):
            case "release", (str(name), str(version)), ("erts", str(erts)), [*applications]:
                for word in (name, version, erts):
                    if not _WORD.fullmatch(word):
                        raise BundleError("release.name", f"{path} names {word[:80]!r}", "use letters, digits and dots")
                if not erts.split(".")[0].isdecimal():
                    raise BundleError("release.broken", f"{path} names ERTS {erts}")
                return str(name), version, erts, tuple(_application(item) for item in applications)
    except BundleError as error:
        raise BundleError(error.code, f"{path}: {error.message}", error.hint or "build the release again") from None
    raise BundleError("release.broken", f"{path} does not describe a release", "build the release again")


def _application(item: Any) -> Application:
    """Of `{App, Vsn}`, `{App, Vsn, Type}`, `{App, Vsn, Included}` or `{App, Vsn, Type, Included}`."""
    match item:
        case (erlterm.Atom() as name, str(version), *rest) if len(rest) <= 2 and _WORD.fullmatch(name):
            start = str(rest[0]) if rest and isinstance(rest[0], erlterm.Atom) else "permanent"
            if start in _STARTS and _WORD.fullmatch(version):
                return Application(str(name), version, start)  # type: ignore[arg-type] # one of _STARTS
    raise BundleError("release.broken", f"{str(item)[:80]} is no application of a release")


def _kind(tree: Tree, version: str) -> Kind:
    if f"releases/{version}/env.sh" in tree.files or f"releases/{version}/elixir" in tree.files:
        return "mix"
    return "relx" if "releases/start_erl.data" in tree.files else "systools"


def _check_erts(tree: Tree, kind: Kind, erts: str) -> None:
    folder = f"erts-{erts}/bin"
    remedy = {
        "relx": "set {include_erts, true} (or {mode, prod}) in relx",
        "mix": "set include_erts: true in the release's options",
        "systools": "give {erts, code:root_dir()} to systools:make_tar/2",
    }[kind]
    if not any(tree.below(f"erts-{erts}")):
        others = sorted({path.split("/")[0] for path in tree.files if path.startswith("erts-")})
        instead = f", only {', '.join(others)}" if others else ""
        raise BundleError(
            "release.no_erts", f"the release brings no Erlang runtime: erts-{erts} is missing{instead}", remedy
        )
    for name in _ERTS_BINARIES:
        file = tree.files.get(f"{folder}/{name}")
        if file is None:
            raise BundleError("release.erts_incomplete", f"the release lacks {folder}/{name}", remedy)
        if not file.executable:
            hint = "pack the release with its modes"
            raise BundleError("release.not_executable", f"{folder}/{name} is not executable", hint)
