"""`bundle build` and `inspect` need no server: what the probes of a release are is said in words and shown as such."""

from pathlib import Path

import pytest

from tests.server.cli.terminal import Operator
from tests.support import skeleton

Capture = pytest.CaptureFixture[str]
PROBES = (
    "--probe-startup=tcp=8080,failure_threshold=30",
    "--probe-readiness=command=bin/my_app ready,period_s=30",
    "--probe-liveness=http=8080/health,period_s=5",
    "--confirm",
)


def test_probes_are_said_in_words_and_shown_by_inspect(operator: Operator, capsys: Capture, tmp_path: Path) -> None:
    source = str(skeleton.write(tmp_path, skeleton.release()))
    built = operator.run("bundle", "build", source, "--out", str(tmp_path), *PROBES, "-o", "json", capsys=capsys)
    assert built.code == 0, built.out
    shown = operator.run("bundle", "inspect", built.json["path"], "-o", "json", capsys=capsys).json
    assert shown["content"]["launch"]["probes"] == {
        "http": None,
        "command": None,
        "timeout_s": 5,
        "startup": {"tcp": 8080, "failure_threshold": 30},
        "readiness": {"command": "bin/my_app ready", "period_s": 30},
        "liveness": {"http": "8080/health", "period_s": 5},
        "confirm": True,
    }
    page = operator.run("bundle", "inspect", built.json["path"], capsys=capsys).out
    for words in ("tcp=8080, failure_threshold=30", "http=8080/health, period_s=5", "confirms itself"):
        assert words in page


@pytest.mark.parametrize("words", ["http=health", "tcp=80,erlang=a:b", "tcp=80,period=5", "tcp=80,success_threshold=2"])
def test_a_probe_that_makes_no_sense_is_refused(
    operator: Operator, capsys: Capture, tmp_path: Path, words: str
) -> None:
    source = str(skeleton.write(tmp_path, skeleton.release()))
    asked = ("bundle", "build", source, "--out", str(tmp_path), f"--probe-liveness={words}", "-o", "json")
    assert operator.run(*asked, capsys=capsys).json["code"] == "launch.probe"
    assert not list(tmp_path.glob("*.bundle"))


def test_a_probe_that_is_given_twice_is_refused(operator: Operator, capsys: Capture, tmp_path: Path) -> None:
    source = str(skeleton.write(tmp_path, skeleton.release()))
    twice = ("--probe-startup", "tcp=80", "--probe-startup", "tcp=81")
    refused = operator.run("bundle", "build", source, "--out", str(tmp_path), *twice, "-o", "json", capsys=capsys).json
    assert (refused["code"], refused["detail"]) == ("launch.probe", "--probe-startup is given 2 times")
    assert not list(tmp_path.glob("*.bundle"))
