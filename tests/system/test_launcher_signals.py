"""A signal that reaches the launcher in the instant before it rests is not slept through: a shutdown waits for it."""

import os
import random
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

LAUNCHER = Path(__file__).resolve().parents[2] / "agent/beamfleet_agent/device/launcher"
SHELLS = [words for words in (["dash"], ["busybox", "ash"]) if shutil.which(words[0])]
TIMES = 3000
WITHIN_S = 0.002
"""How long it takes from a ring to the next rest, and more."""
LOST_S = 30
LOOP = """
set -u
petting='' seen=0
exec 3<>"$1" 5<"$1"
trap 'seen=$((seen + 1)); echo >&3' TERM
echo ready
while :; do
  [ "$seen" = 0 ] || { seen=0; echo seen; }
  rest "$2"
done
"""


def rest() -> str:
    """The launcher's function of this name."""
    text = LAUNCHER.read_text()
    return text[text.index("\nrest() {") : text.index("\n}\n", text.index("\nrest() {")) + 3]


@pytest.mark.parametrize("seconds", ["", "600"], ids=["for ever", "for a time"])
@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_a_signal_that_comes_right_after_a_ring_ends_the_rest(shell: list[str], seconds: str, tmp_path: Path) -> None:
    script, doorbell = tmp_path / "loop", tmp_path / "doorbell"
    script.write_text(rest() + LOOP)
    os.mkfifo(doorbell)
    moments = random.Random(1)  # noqa: S311 - to be repeated
    with subprocess.Popen([*shell, script, doorbell, seconds], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        bell = os.open(doorbell, os.O_RDWR)
        try:
            assert process.stdout.readline() == "ready\n"
            for _ in range(TIMES if not seconds else TIMES // 10):
                os.write(bell, b"\n")
                end = time.perf_counter() + moments.uniform(0, WITHIN_S)
                while time.perf_counter() < end:
                    pass
                process.terminate()
                assert select.select([process.stdout], [], [], LOST_S)[0], "a signal was slept through"
                assert process.stdout.readline() == "seen\n"
        finally:
            process.kill()
            os.close(bell)
    listening = [entry for entry in Path("/proc").glob("[0-9]*/fd/*") if _leads(entry) == str(doorbell)]
    assert not listening, "who listened has ended with the last who could ring"


def _leads(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""
