from pathlib import Path

import pytest
from beamfleet_bundles.build.release import detect
from beamfleet_bundles.build.start import prepare
from beamfleet_bundles.build.tree import Tree
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.launch import Launch

from tests.support.refusal import refusal
from tests.support.skeleton import Files, boot, members, release

FOLDER = "releases/1.0.0"


def prepared(folder: Path, files: Files) -> tuple[Launch, str, Tree]:
    """The launch description, the notices as one text, and the tree."""
    tree = Tree(folder)
    for info, data in members(files):
        tree.replace(info.name, data, executable=bool(info.mode & 0o100))
    launch, notices = prepare(tree, detect(tree))
    return launch, "\n".join(notices), tree


def test_relx_starts_with_its_configuration_and_arguments(tmp_path: Path) -> None:
    launch, notices, _ = prepared(tmp_path, release())
    assert launch.boot == f"{FOLDER}/start"
    assert (launch.config, launch.args_file) == (f"{FOLDER}/sys.config", f"{FOLDER}/vm.args")
    assert (launch.config_src, launch.args_src, launch.env_sh, launch.boot_vars) == ("", "", "", {})
    assert notices == ""


def test_templates_of_relx_take_the_place_of_plain_files_and_name_their_variables(tmp_path: Path) -> None:
    files = release() | {
        f"{FOLDER}/sys.config.src": b"[{my_app,[{port,${PORT:-80}},{name,${NAME}}]}].\n",
        f"{FOLDER}/vm.args.src": b"-sname ${NODE}\n+P ${PROCESSES}\n",
    }
    launch, notices, tree = prepared(tmp_path, files)
    assert (launch.config, launch.config_src) == ("", f"{FOLDER}/sys.config.src")
    assert (launch.args_file, launch.args_src) == ("", f"{FOLDER}/vm.args.src")
    assert launch.environment == ("NAME", "PORT", "PROCESSES")
    assert "-sname ${NODE} is taken out" in notices
    assert tree.read(f"{FOLDER}/vm.args.src", 1000) == b"+P ${PROCESSES}\n"


def test_relx_prefers_files_in_the_root_of_the_release(tmp_path: Path) -> None:
    launch, _, _ = prepared(tmp_path, release() | {"vm.args": b"+A 5\n", "sys.config": b"[]."})
    assert (launch.config, launch.args_file) == ("sys.config", "vm.args")


def test_mix_starts_with_env_sh_and_its_library_variable_and_without_its_cookie(tmp_path: Path) -> None:
    files = release("mix") | {
        f"{FOLDER}/runtime.exs": b'System.fetch_env!("A")\nSystem.get_env("B", "x")\n# System.x("C")\n'
    }
    launch, notices, tree = prepared(tmp_path, files)
    assert launch.env_sh == f"{FOLDER}/env.sh"
    assert launch.boot_vars == {"RELEASE_LIB": "lib"}
    assert launch.environment == ("A", "B")
    assert "releases/COOKIE" not in tree.files
    assert "releases/COOKIE is left out" in notices


def test_systools_starts_with_what_there_is(tmp_path: Path) -> None:
    launch, _, _ = prepared(tmp_path, release("systools"))
    assert (launch.boot, launch.config, launch.args_file) == (f"{FOLDER}/start", "", "")
    files = release("systools")
    files[f"{FOLDER}/my_app.boot"] = files.pop(f"{FOLDER}/start.boot")
    assert prepared(tmp_path, files)[0].boot == f"{FOLDER}/my_app"


def test_variables_of_the_boot_script_are_given_or_refused(tmp_path: Path) -> None:
    launch, _, _ = prepared(tmp_path, release() | {f"{FOLDER}/start.boot": boot("ERTS_LIB_DIR", "RELEASE_LIB")})
    assert launch.boot_vars == {"ERTS_LIB_DIR": "lib", "RELEASE_LIB": "lib"}
    with pytest.raises(BundleError, match=r"\$MY_LIBS") as error:
        prepared(tmp_path, release() | {f"{FOLDER}/start.boot": boot("MY_LIBS")})
    assert error.value.code == "release.boot_variable"


def test_a_missing_or_broken_boot_script_is_refused(tmp_path: Path) -> None:
    files = release()
    del files[f"{FOLDER}/start.boot"]
    assert refusal(prepared, tmp_path, files) == "release.no_boot"
    assert refusal(prepared, tmp_path, files | {f"{FOLDER}/start.boot": b"{script,"}) == "release.broken"
    files = release("mix")
    del files[f"{FOLDER}/sys.config"]
    assert refusal(prepared, tmp_path, files) == "release.broken"


@pytest.mark.parametrize("kind", ["PRE_START", "POST_START", "PRE_STOP", "POST_STOP"])
def test_hooks_of_relx_that_beamfleet_does_not_run_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    script = f'#!/bin/sh\n{kind}_HOOKS="hooks/builtin/pid|/var/run/x.pid hooks/mount_disk.sh"\n'.encode()
    with pytest.raises(BundleError, match=r"bin/hooks/mount_disk\.sh") as error:
        prepared(tmp_path, release() | {"bin/my_app": script})
    assert error.value.code == "release.hook"
    assert error.value.hint


def test_hooks_that_are_not_needed_are_mentioned(tmp_path: Path) -> None:
    script = b'POST_START_HOOKS="hooks/builtin/wait_for_vm_start"\nPRE_STOP_HOOKS=""\nSTATUS_HOOK="hooks/mine"\n'
    _, notices, _ = prepared(tmp_path, release() | {"bin/my_app": script})
    assert "bin/hooks/builtin/wait_for_vm_start: the post_start hook of relx is not run" in notices


def test_what_env_sh_sets_in_vain_is_mentioned_or_refused(tmp_path: Path) -> None:
    env = b"#!/bin/sh\n# export RELEASE_COOKIE=x\nexport RELEASE_DISTRIBUTION=name\n  export PORT=80\n"
    _, notices, _ = prepared(tmp_path, release("mix") | {f"{FOLDER}/env.sh": env})
    assert "RELEASE_DISTRIBUTION has no effect" in notices
    assert "RELEASE_COOKIE has no effect" not in notices
    env = b'if true; then export ELIXIR_ERL_OPTIONS="+P 5"; fi\n'
    assert refusal(prepared, tmp_path, release("mix") | {f"{FOLDER}/env.sh": env}) == "release.env_sh"
    env = b'export ERL_FLAGS="-heart"\n'
    assert refusal(prepared, tmp_path, release("mix") | {f"{FOLDER}/env.sh": env}) == "release.env_sh"
    env = b'# export ELIXIR_ERL_OPTIONS="-heart"\n'
    assert refusal(prepared, tmp_path, release("mix") | {f"{FOLDER}/env.sh": env}) == ""


def test_variables_that_nobody_expands_are_mentioned(tmp_path: Path) -> None:
    _, notices, _ = prepared(tmp_path, release() | {f"{FOLDER}/vm.args": b"+P ${MAX}\n"})
    assert "name the file vm.args.src" in notices


def test_paths_that_need_the_slot_make_a_template_of_vm_args(tmp_path: Path) -> None:
    files = release() | {f"{FOLDER}/vm.args": b"-config more\n", "more.config": b"[]."}
    launch, notices, tree = prepared(tmp_path, files)
    assert (launch.args_file, launch.args_src) == ("", f"{FOLDER}/vm.args")
    assert tree.read(f"{FOLDER}/vm.args", 1000) == b"-config ${ROOTDIR}/more\n"
    assert notices == ""
