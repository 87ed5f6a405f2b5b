import os
import shutil
import subprocess
from pathlib import Path

import pytest
from beamfleet_agent import abilities
from beamfleet_agent.errors import AgentError

TOOLS = ("sh", "flock", "sync", "ln", "mv", "mkfifo", "timeout", "true", "head", "tail", "wc", "dd", "sha256sum", "cut",
         "ls", "grep", "readlink", "sed", "tr", "awk", "sleep", "id", "date", "env", "setsid", "setpriv")  # fmt: skip


def tools(folder: Path, *, without: str = "") -> str:
    """A PATH with the tools of this system that the launcher needs."""
    folder.mkdir()
    for name in TOOLS:
        if name != without:
            (folder / name).symlink_to(str(shutil.which(name)))
    return str(folder)


def busybox_tools(folder: Path, of_util_linux: tuple[str, ...] = ("flock", "setpriv")) -> str:
    """A PATH with BusyBox's tools, and with these of util-linux."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    folder.mkdir()
    for name in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if name not in ("flock", "setpriv"):
            (folder / name).symlink_to(busybox)
    for name in of_util_linux:
        (folder / name).symlink_to(str(shutil.which(name)))
    return str(folder)


def test_this_system_can_run_the_launcher() -> None:
    assert abilities.missing(as_user=os.geteuid() == 0, alone=True) == []


def test_busybox_with_flock_and_setpriv_of_util_linux_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", busybox_tools(tmp_path / "bin"))
    assert abilities.missing(as_user=os.geteuid() == 0, alone=True) == []


def test_a_busybox_without_flock_is_refused_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", busybox_tools(tmp_path / "bin", of_util_linux=()))
    with pytest.raises(AgentError) as caught:
        abilities.require(as_user=False)
    assert caught.value.code == "setup.tools"
    assert caught.value.message.endswith("cannot: flock")
    assert "util-linux" in caught.value.hint


@pytest.mark.parametrize(
    ("tool", "named"), [("sha256sum", "sha256sum"), ("mkfifo", "mkfifo -m"), ("timeout", "timeout -k"), ("mv", "mv -T")]
)
def test_each_tool_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str, named: str
) -> None:
    monkeypatch.setenv("PATH", tools(tmp_path / "bin", without=tool))
    assert abilities.missing(as_user=False) == [named]
