"""What the shell is offered; where no server answers it is offered nothing, and no error."""

from pathlib import Path

from beamfleet_server.cli.contexts import Contexts

from tests.server.cli.api_script import TOKEN, Answer, ScriptedApi
from tests.server.cli.terminal import Ended, Operator, child


def completed(operator: Operator, line: str) -> Ended:
    """What bash offers for the last word of a line."""
    environment = {
        "BEAMFLEET_CONFIG_DIR": str(operator.directory),
        "_BEAMFLEET_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }
    return child(environment=environment)


def log_in(directory: Path, api: ScriptedApi) -> None:
    Contexts(directory).save("berlin", api.url, TOKEN, api.ca.read_bytes())


def test_devices_are_offered_by_their_ids(operator: Operator, api: ScriptedApi) -> None:
    log_in(operator.directory, api)
    devices = [{"id": name, "product": "", "version": ""} for name in ("gw-1", "gw-2", "kiosk-1")]
    api.script(Answer({"items": devices, "next": None}))
    assert completed(operator, "beamfleet device show gw").out.split() == ["gw-1", "gw-2"]


def test_contexts_are_offered_without_asking_anybody(operator: Operator, api: ScriptedApi) -> None:
    log_in(operator.directory, api)
    assert completed(operator, "beamfleet context use ").out.split() == ["berlin"]
    assert api.requests == []


def test_without_a_server_nothing_is_offered_and_nothing_is_said(operator: Operator, api: ScriptedApi) -> None:
    log_in(operator.directory, api)
    api.script(Answer(drop=True))
    silent = completed(operator, "beamfleet rollout status ")
    assert (silent.code, silent.out.strip(), silent.err) == (0, "", "")


def test_before_the_first_login_nothing_is_offered_and_nothing_is_said(operator: Operator) -> None:
    silent = completed(operator, "beamfleet device show ")
    assert (silent.code, silent.out.strip(), silent.err) == (0, "", "")
