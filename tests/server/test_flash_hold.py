"""One flash at a time works on a directory, and what a killed one has left running counts as one."""

import subprocess
from pathlib import Path

import pytest
from beamfleet_server.flash.directory import DirectoryTarget
from beamfleet_server.flash.errors import FlashError
from beamfleet_server.flash.hold import Hold


def test_a_second_flash_of_a_directory_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    with Hold(tmp_path, "it"):
        with pytest.raises(FlashError) as caught:
            Hold(tmp_path, "it", patience_s=0)
        assert caught.value.code == "flash.running"
    Hold(tmp_path, "it", patience_s=0).let_go()


def test_a_child_that_was_left_over_holds_it_as_well(tmp_path: Path) -> None:
    first = Hold(tmp_path, "it")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=first.descriptors) as child:
        first.let_go()
        with pytest.raises(FlashError):
            Hold(tmp_path, "it", patience_s=0)
        child.communicate()
    Hold(tmp_path, "it", patience_s=0).let_go()


def test_a_device_in_a_directory_is_held_from_its_preparation_on(tmp_path: Path) -> None:
    root = tmp_path / "new" / "device"
    with DirectoryTarget(root) as target:
        target.prepare(lambda *_: None)
        with pytest.raises(FlashError):
            Hold(root, "it", patience_s=0)
    Hold(root, "it", patience_s=0).let_go()
