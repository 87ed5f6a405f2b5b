"""Owns working out how a release starts, from what the scripts of relx and mix would have done on the device.

The launcher calls erlexec itself and never `bin/NAME`: so boot script, configuration, VM arguments and boot variables
are read off the release here and signed. What the scripts do beyond that, and beamfleet cannot, is refused by name.
"""

import re

from beamfleet_bundles.build.release import Found
from beamfleet_bundles.build.tree import Tree
from beamfleet_bundles.build.vmargs import Cleaner
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.launch import Launch

_TEXT = 4 << 20
_BOOT = 16 << 20
_VARIABLE = re.compile(rb"\$([A-Z][A-Z0-9_]*)/")
_BOOT_VARIABLES = {"RELEASE_LIB": "lib", "ERTS_LIB_DIR": "lib", "SYSTEM_LIB_DIR": "lib"}
"""What the scripts of mix and relx give as -boot_var, relative to the release."""
_HOOKS = re.compile(rb'^(PRE_START|POST_START|PRE_STOP|POST_STOP)_HOOKS="([^"\n]*)"', re.MULTILINE)
_EXPANSION = re.compile(rb"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-[^}]*)?\}")
_RUNTIME_ENV = re.compile(rb"""System\.(?:get_env|fetch_env!?)\(\s*"([A-Za-z_][A-Za-z0-9_]*)\"""")
_ENV_SH = re.compile(rb"^[^#\n]*?\b([A-Z][A-Z0-9_]*)=", re.MULTILINE)
_WITHOUT_EFFECT = ("RELEASE_DISTRIBUTION", "RELEASE_NODE", "RELEASE_COOKIE", "RELEASE_MODE")
_COOKIE = "releases/COOKIE"


def prepare(tree: Tree, found: Found) -> tuple[Launch, list[str]]:
    """How `found` starts, without probes, and what a user should know; changes `vm.args` files and drops secrets.

    Errors: `release.{no_boot,boot_variable,hook,vm_args,env_sh,broken}`.
    """
    release, folder = found.release, found.folder
    notices: list[str] = []
    boot, boot_vars = _boot(tree, found)
    config, config_src = _pair(tree, found, "sys.config")
    args_file, args_src = _pair(tree, found, "vm.args")
    env_sh = f"{folder}/env.sh" if release.kind == "mix" and f"{folder}/env.sh" in tree.files else ""
    if release.kind == "mix" and not config:
        raise BundleError("release.broken", f"the release lacks {folder}/sys.config", "build it again with mix release")
    if release.kind == "relx":
        notices += _hooks(tree, release.name)
    if env_sh:
        notices += _check_env_sh(tree, env_sh)
    if args := args_src or args_file:
        args_file, args_src = _clean_args(tree, args, notices)
    for path in filter(None, (config, args_file)):
        if _EXPANSION.search(tree.read(path, _TEXT)):
            notices.append(f"{path} holds ${{...}}, which is not expanded: name the file {path.rpartition('/')[2]}.src")
    if tree.files.pop(_COOKIE, None):
        notices.append(f"{_COOKIE} is left out: cookies are made on the device")
    launch = Launch(
        kind=release.kind,
        name=release.name,
        vsn=found.version,
        erts=release.erts,
        boot=boot,
        config=config,
        config_src=config_src,
        args_file=args_file,
        args_src=args_src,
        env_sh=env_sh,
        boot_vars=boot_vars,
        environment=_environment(tree, found, (config_src, args_src)),
    )
    return launch, notices


def _boot(tree: Tree, found: Found) -> tuple[str, dict[str, str]]:
    names = (f"{found.folder}/start", f"{found.folder}/{found.release.name}", f"releases/{found.release.name}")
    boot = next((name for name in names if f"{name}.boot" in tree.files), "")
    if not boot:
        raise BundleError(
            "release.no_boot", f"the release has no boot script {names[0]}.boot", "build the release again"
        )
    script = tree.read(f"{boot}.boot", _BOOT)
    if not script.startswith(b"\x83") or b"script" not in script[:16]:
        raise BundleError("release.broken", f"{boot}.boot is no boot script", "build the release again")
    variables = {}
    for name in sorted({match[1].decode() for match in _VARIABLE.finditer(script)} - {"ROOT"}):
        if name not in _BOOT_VARIABLES:
            message = f"{boot}.boot looks for code in ${name}, which only the machine it was built on knows"
            raise BundleError("release.boot_variable", message, "make the script without {variables, ...}")
        variables[name] = _BOOT_VARIABLES[name]
    return boot, variables


def _pair(tree: Tree, found: Found, name: str) -> tuple[str, str]:
    """(file, template) of a configuration file, each empty if there is none; relx looks into the root first."""
    folders = ("", f"{found.folder}/") if found.release.kind == "relx" else (f"{found.folder}/",)
    for folder in folders:
        plain, template = f"{folder}{name}", f"{folder}{name}.src"
        if found.release.kind == "relx" and template in tree.files:
            return "", template
        if plain in tree.files:
            return plain, ""
    return "", ""


def _clean_args(tree: Tree, path: str, notices: list[str]) -> tuple[str, str]:
    """(file, template) of the VM arguments, after taking out of them what beamfleet decides."""
    known = tree.folders() | tree.files.keys()
    cleaned = Cleaner(lambda name: tree.read(name, _TEXT), lambda name: name in known).clean(path)
    if cleaned.data != tree.read(path, _TEXT):
        tree.replace(path, cleaned.data)
    notices += cleaned.notices
    return ("", path) if cleaned.expand or path.endswith(".src") else (path, "")


def _hooks(tree: Tree, name: str) -> list[str]:
    path = f"bin/{name}"
    if path not in tree.files:
        return []
    notices = []
    for match in _HOOKS.finditer(tree.read(path, _TEXT)):
        kind = match[1].decode().lower()
        for hook in match[2].decode(errors="replace").split():
            script = hook.split("|")[0]
            if not script.startswith("hooks/builtin/"):
                message = f"the release has the {kind} hook bin/{script}, which beamfleet does not run"
                hint = "do its work in an application of the release, and take it out of extended_start_script_hooks"
                raise BundleError("release.hook", message, hint)
            notices.append(f"bin/{script}: the {kind} hook of relx is not run, and not needed")
    return notices


def _check_env_sh(tree: Tree, path: str) -> list[str]:
    names = {match[1].decode() for match in _ENV_SH.finditer(tree.read(path, _TEXT))}
    for name in ("ELIXIR_ERL_OPTIONS", "ERL_FLAGS", "ERL_AFLAGS", "ERL_ZFLAGS"):
        if name in names:
            message = f"{path} sets {name}, which the start on the device does not take"
            raise BundleError("release.env_sh", message, "put VM arguments into rel/vm.args.eex")
    return [f"{path}: {name} has no effect, beamfleet decides it" for name in _WITHOUT_EFFECT if name in names]


def _environment(tree: Tree, found: Found, templates: tuple[str, ...]) -> tuple[str, ...]:
    names = {match[1] for path in templates if path for match in _EXPANSION.finditer(tree.read(path, _TEXT))}
    runtime = f"{found.folder}/runtime.exs"
    if runtime in tree.files:
        names |= {match[1] for match in _RUNTIME_ENV.finditer(tree.read(runtime, _TEXT))}
    return tuple(sorted(name.decode() for name in names - {b"ROOTDIR", b"RELEASE_ROOT_DIR", b"RELEASE_ROOT"}))
