"""Owns what each command of `beamfleet-agent` does: ask the running agent, or do without it, and say what happened.

Without an agent `status` and `diagnose` read the files themselves, `stop` and `start` ask the launcher, and `install`,
`rollback` and `commit` run the same state machine in the foreground until the update has ended.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from beamfleet_agent import client, diagnosis, settings
from beamfleet_agent.agent import Agent
from beamfleet_agent.boot import Boot
from beamfleet_agent.claim import become_owner
from beamfleet_agent.errors import AgentError
from beamfleet_agent.journal import Journal
from beamfleet_agent.paths import Paths
from beamfleet_agent.reports import update_of
from beamfleet_agent.update_state import known

LAUNCHER_S = 15.0

Status = dict[str, Any]


def status(root: str, as_json: bool) -> int:
    """What runs, and what is under way."""
    paths = _paths(root)
    found = client.ask(paths, {"do": "status"}, _silent) or _files(paths)
    found["fingerprint"] = diagnosis.fingerprint(paths)
    print(json.dumps(found) if as_json else _text(found))
    return 0


def install(root: str, file: str, as_json: bool) -> int:
    """Install a bundle file; 0 only if the release was committed."""
    if not os.path.isfile(file):
        raise AgentError("update.no_file", f"there is no file {file}", "name a .bundle file")
    ended = _update(root, {"do": "install", "path": file}, lambda agent: agent.install(file))
    return _outcome(ended, ended["update"]["phase"] == "committed", as_json)


def rollback(root: str, forced: bool, as_json: bool) -> int:
    """Go back; 0 if the previous release was committed, or the trial ended against the new one."""
    ended = _update(root, {"do": "rollback", "force": forced}, lambda agent: agent.rollback(forced))
    update = ended["update"]
    good = update["phase"] == "committed" or (update["phase"], update["reason"]) == ("reverted", "operator")
    return _outcome(ended, good, as_json)


def commit(root: str, as_json: bool) -> int:
    """End the trial in favour of the new release."""
    ended = _update(root, {"do": "commit"}, Agent.commit)
    return _outcome(ended, ended["update"]["phase"] == "committed", as_json)


def stop_or_start(root: str, verb: str, as_json: bool) -> int:
    """Ask the launcher to stop or start the release, and wait until it has noted that."""
    paths = _paths(root)
    found = client.ask(paths, {"do": verb}, _silent)
    if found is None:
        become_owner(paths)
        boot = Boot(paths.app_dir, paths.run_app)
        number = boot.request(verb)
        limit = time.monotonic() + LAUNCHER_S
        while boot.state().last_request < number:
            if time.monotonic() > limit:
                hint = "start the launcher; it takes the request when it comes"
                raise AgentError("update.no_launcher", f"no launcher takes the request to {verb}", hint)
            time.sleep(0.1)
        found = _files(paths)
    print(
        json.dumps(found) if as_json else f"{verb}: done; the release is {'stopped' if found['stopped'] else 'started'}"
    )
    return 0


def enrol(root: str, as_json: bool) -> int:
    """Enrol now, in a worker of the agent or in one of our own."""
    paths = _paths(root)
    if client.ask(paths, {"do": "enrol"}, _silent) is not None:
        print(json.dumps({"asked": True}) if as_json else "the agent enrols; see `beamfleet-agent status`")
        return 0
    from beamfleet_agent.worker.enrol import enrol as enrol_here
    from beamfleet_agent.worker.job import Job

    become_owner(paths)
    facts = enrol_here(Job({"job": "enrol", "root": root}))
    print(json.dumps(facts) if as_json else f"enrolled as {facts['name']}, serial {facts['serial']}")
    return 0


def diagnose(root: str, out: str, as_json: bool) -> int:
    """Everything that helps to see why: facts on standard output, or with `out` all files as an archive there."""
    paths = _paths(root)
    found = client.ask(paths, {"do": "status"}, _silent) or _files(paths)
    if not out:
        facts = diagnosis.facts(paths, found)
        print(json.dumps(facts) if as_json else _sections(facts))
        return 0
    data = diagnosis.archive(paths, found)
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise AgentError("agent.io", f"{out} is there already", "name another file") from None
    with open(descriptor, "wb") as file:
        file.write(data)
    told = f"{out}: {len(data)} bytes, with what the release had in its memory; not sealed, so keep it to yourself"
    print(json.dumps({"archive": out, "bytes": len(data)}) if as_json else told)
    return 0


def setup(root: str, source: TextIO) -> int:
    """Lay the device down; one JSON object on standard output.

    A running agent enrols with a new token at once; `restart` in the answer says that it still has other settings.
    """
    from beamfleet_agent.provisioning import remove_provision
    from beamfleet_agent.setup import set_up

    words = _words(source)
    place = Paths(root).settings
    try:
        before = settings.load(place)
    except AgentError:  # none yet, or broken: that is mended now
        before = None
    answer = set_up(root, words)
    remove_provision(root)
    after = settings.load(place)
    running = client.ask(Paths(root, after.app), {"do": "status"}, _silent) is not None
    if running and before == after and os.path.exists(Paths(root, after.app).token):
        client.ask(Paths(root, after.app), {"do": "enrol"}, _silent)
    print(json.dumps({**answer, "restart": running and before != after}))
    return 0


def check_setup(root: str, source: TextIO) -> int:
    """Refuse what `setup` would refuse of the words; one JSON object on standard output, and nothing is done."""
    from beamfleet_agent.setup import check

    check(root, _words(source))
    print(json.dumps({"good": True}))
    return 0


def _words(source: TextIO) -> Any:
    try:
        return json.load(source)
    except ValueError as error:
        hint = "give a JSON object on standard input"
        raise AgentError("setup.words", f"the settings are not JSON: {error}", hint) from None


def first_boot(root: str) -> int:
    """Become the device that this machine is, as provision.json has it; one JSON object on standard output."""
    from beamfleet_agent.provisioning import first_boot as become

    print(json.dumps(become(root)))
    return 0


def decommission(root: str, sure: bool, as_json: bool) -> int:
    """Forget everything, and say what that was."""
    from beamfleet_agent.retirement import Retirement

    retirement = Retirement(root)
    if not sure and not _agreed(f"{retirement.device} forgets who it is, its releases and their data. Type its id: ",
                                retirement.device):  # fmt: skip
        return 2
    gone = retirement.carry_out()
    told = "\n".join([*(f"removed {path}" for path in gone), f"{retirement.device} is no device any more"])
    print(json.dumps({"device": retirement.device, "removed": gone}) if as_json else told)
    return 0


def _agreed(question: str, answer: str) -> bool:
    if not sys.stdin.isatty():
        print("error: nobody is there to be asked\nhint: use --yes", file=sys.stderr)
        return False
    print(question, end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() == answer:
        return True
    print("nothing was done", file=sys.stderr)
    return False


def _paths(root: str) -> Paths:
    settled = settings.load(Paths(root).settings)
    return Paths(root, settled.app)


def _update(root: str, question: dict[str, Any], ask: Callable[[Agent], None]) -> Status:
    """The status when what was asked for has ended, by the running agent or by one of our own."""
    progress = _Progress()
    found = client.ask(_paths(root), question, progress)
    if found is None:
        from beamfleet_agent.resident import attend

        found = attend(root, ask, progress)
    progress.end()
    return found


class _Progress:
    """One line on standard error that follows the update; a line for each phase when nobody looks."""

    def __init__(self) -> None:
        self._shown = ""

    def __call__(self, found: Status) -> None:
        update = found["update"]
        line = " ".join(
            word for word in (update["phase"], update["product"], update["version"], update["detail"]) if word
        )
        if update["phase"] == "downloading" and update["total"]:
            line += f" {100 * update['done'] // update['total']} %"
        if not sys.stderr.isatty():
            line = update["phase"]
        if line != self._shown:
            self._shown = line
            print(
                f"\r\033[K{line}" if sys.stderr.isatty() else line,
                end="" if sys.stderr.isatty() else "\n",
                file=sys.stderr,
            )
            sys.stderr.flush()

    def end(self) -> None:
        if self._shown and sys.stderr.isatty():
            print(file=sys.stderr)


def _outcome(found: Status, good: bool, as_json: bool) -> int:
    update = found["update"]
    if good:
        words = f"{update['phase']}: {found['product']} {found['version']} runs in slot {found['slot']}"
        print(json.dumps(found) if as_json else words)
        return 0
    error = {
        "code": update["reason"] or f"update.{update['phase']}",
        "message": f"{update['phase']}: {update['detail'] or update['reason']}",
        "hint": update["hint"] or "`beamfleet-agent diagnose` tells more",
    }
    if as_json:
        print(json.dumps({**found, "error": error}))
    else:
        print(f"error: {error['message']} ({error['code']})\nhint: {error['hint']}", file=sys.stderr)
        if found["slot"]:
            print(f"{found['product']} {found['version']}, which ran before, runs on", file=sys.stderr)
    return 1


def _files(paths: Paths) -> Status:
    """The status without an agent."""
    boot = Boot(paths.app_dir, paths.run_app).state()
    remembered = Journal(paths.journal).read()
    state = remembered[0] if remembered else None
    release = known(state, boot.slot) if state else None
    update = {**update_of(state.update), "slot": state.update.slot} if state else None
    settled = settings.load(paths.settings)
    return {
        "device": settled.device,
        "agent": None,
        "session": False,
        "problem": "no agent runs",
        "health": "unknown",
        "unwell": "",
        "profile": settled.profile,
        "product": release.product if release else "",
        "version": release.version if release else "",
        **boot.shown(),
        "update": update,
    }


def _text(found: Status) -> str:
    agent, update = found["agent"], found["update"]
    release = f"{found['product'] or 'a release'} {found['version']}".strip() if found["slot"] else "none"
    lines = {
        "device": found["device"],
        "agent": f"{agent['version']}, process {agent['pid']}" if agent else "not running",
        "server": "connected" if found["session"] else found["problem"] or "not connected",
        "release": f"{release} ({found['phase']}{', stopped' if found['stopped'] else ''})",
        "key": found["fingerprint"] or "-",
        "slot": found["slot"] or "-",
        "previous": found["previous"] or "-",
        "health": f"{found['health']}{': ' if found['unwell'] else ''}{found['unwell']}",
        "profile": found["profile"],
        "starts": f"{found['starts']}, the last one: {found['cause'] or '-'} {found['detail']}".rstrip(),
        "failed": found["failed"] or "-",
    }
    if update:
        words = (update["phase"], update["product"], update["version"], update["reason"], update["detail"])
        lines["update"] = " ".join(word for word in words if word)
    return "\n".join(f"{name + ':':<10}{value}" for name, value in lines.items())


def _sections(facts: dict[str, Any]) -> str:
    return "\n".join(
        f"== {name}\n{value if isinstance(value, str) else json.dumps(value, indent=2)}"
        for name, value in facts.items()
    )


def _silent(_status: Status) -> None:
    """Nobody looks."""
