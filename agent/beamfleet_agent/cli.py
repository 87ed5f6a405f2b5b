"""Owns the command `beamfleet-agent` for people there. `run` is the agent itself; the others ask the running one.

`run` in the form that DIR/run and units use gets past argparse: the resident agent is 1.5 MB smaller without it.
Exit codes: 0 done, 1 error (also: the update did not end as asked), 2 usage.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from beamfleet_bundles.errors import BeamfleetError

if TYPE_CHECKING:
    import argparse

EXAMPLES = """examples:
  beamfleet-agent status                         what runs, and what is under way
  beamfleet-agent --root DIR status -o json      the same of a device in a directory, for scripts
  beamfleet-agent install gateway.bundle         from a stick, without any server
  beamfleet-agent rollback                       back to the previous release, on trial
  beamfleet-agent diagnose -o json >facts.json   everything that helps to see why
  beamfleet-agent diagnose --out gw-1.tar.zst    the same with logs and crash dump
"""


def main(argv: list[str] | None = None) -> int:
    """The exit code."""
    words = sys.argv[1:] if argv is None else argv
    as_json = False
    try:
        match words:
            case ["run", "--root", root]:
                from beamfleet_agent.resident import run

                return run(os.path.abspath(root) if root not in ("", "/") else "")
            case _:
                asked = parser().parse_args(words)
                as_json = asked.output == "json" or asked.command == "setup"
                return _without_traceback(asked)
    except BeamfleetError as error:
        refuse(error, as_json)
        return 1
    except KeyboardInterrupt:
        return 130


def refuse(error: BeamfleetError, as_json: bool) -> None:
    """Say what went wrong: for people on standard error, for scripts one object on standard output."""
    if as_json:
        print(json.dumps({"error": {"code": error.code, "message": error.message, "hint": error.hint}}))
    else:
        print(f"error: {error.message} ({error.code})", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)


def parser() -> "argparse.ArgumentParser":
    """The command line."""
    import argparse

    whole = argparse.ArgumentParser(
        "beamfleet-agent",
        description="Updates and watches the Erlang/OTP or Elixir release on this device.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shared = argparse.ArgumentParser(add_help=False)
    for place, root, output in ((whole, "", "text"), (shared, argparse.SUPPRESS, argparse.SUPPRESS)):
        place.add_argument("--root", default=root, metavar="DIR", help="a device in a directory, not this machine")
        place.add_argument("-o", "--output", default=output, choices=("text", "json"), help="text unless given")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, example: str) -> argparse.ArgumentParser:
        epilog = f"example:\n  beamfleet-agent {example}\n"
        form = argparse.RawDescriptionHelpFormatter
        return commands.add_parser(
            name, help=text, description=text, epilog=epilog, parents=[shared], formatter_class=form
        )

    command("run", "Be the agent, in the foreground; an init keeps it running.", "run --root /srv/device-1")
    command("enrol", "Ask for a certificate with the device's one-time token.", "enrol")
    command("status", "What runs on this device, and what is under way.", "status -o json")
    install = command("install", "Install a release from a .bundle file.", "install gateway-1.1.0.bundle")
    install.add_argument("file", help="the .bundle file; its signatures are verified")
    command("commit", "End the trial of the new release in its favour, now.", "commit")
    text = "Go back to the previous release; during a trial, end it against the new one."
    back = command("rollback", text, "rollback")
    back.add_argument("--force", action="store_true", help="even to a release with a lower data_schema")
    command("stop", "Stop the release; it stays stopped, over reboots as well.", "stop")
    command("start", "Start the release that was stopped.", "start")
    text = (
        "Print everything that helps to see why, or with --out FILE keep it, with logs and crash dump, as an archive."
    )
    why = command("diagnose", text, "diagnose --out gw-1.tar.zst")
    why.add_argument("--out", default="", metavar="FILE", help="a new file, readable by you alone: tar in zstd")
    text = "Lay the device down; settings are JSON on standard input."
    laid = command("setup", text, "setup --root DIR <settings.json")
    text = "take them from provision.json, and work out which device this is; each boot does that"
    way = laid.add_mutually_exclusive_group()
    way.add_argument("--first-boot", action="store_true", help=text)
    text = "only check the settings, and write nothing; those that the server knows may be missing"
    way.add_argument("--check", action="store_true", help=text)
    text = "Make the device forget who it was, its releases and their data, for another owner or for the bin."
    gone = command("decommission", text, "decommission --yes")
    gone.add_argument("--yes", action="store_true", help="do not ask")
    return whole


def _without_traceback(asked: "argparse.Namespace") -> int:
    """`do`; what the system refuses is an error like any other: `agent.io`."""
    try:
        return do(asked)
    except OSError as error:
        from beamfleet_agent.errors import AgentError

        text = f"{error.filename or asked.root or '/'}: {error.strerror or error}"
        raise AgentError("agent.io", text, "check the path, its owner and the space on the disk") from error


def do(asked: "argparse.Namespace") -> int:
    """One command."""
    from beamfleet_agent import device_commands as commands

    root = os.path.abspath(asked.root) if asked.root not in ("", "/") else ""
    as_json = asked.output == "json"
    actions: dict[str, Callable[[], int]] = {
        "run": lambda: _become_resident(root),
        "enrol": lambda: commands.enrol(root, as_json),
        "status": lambda: commands.status(root, as_json),
        "install": lambda: commands.install(root, os.path.abspath(asked.file), as_json),
        "commit": lambda: commands.commit(root, as_json),
        "rollback": lambda: commands.rollback(root, asked.force, as_json),
        "stop": lambda: commands.stop_or_start(root, "stop", as_json),
        "start": lambda: commands.stop_or_start(root, "start", as_json),
        "diagnose": lambda: commands.diagnose(root, asked.out and os.path.abspath(asked.out), as_json),
        "setup": lambda: _set_up(root, asked),
        "decommission": lambda: commands.decommission(root, asked.yes, as_json),
    }
    return actions[asked.command]()


def _set_up(root: str, asked: "argparse.Namespace") -> int:
    from beamfleet_agent import device_commands as commands

    if asked.first_boot:
        return commands.first_boot(root)
    return commands.check_setup(root, sys.stdin) if asked.check else commands.setup(root, sys.stdin)


def _become_resident(root: str) -> int:
    """Start over in the small form."""
    os.execv(sys.executable, [sys.executable, "-I", "-m", "beamfleet_agent", "run", "--root", root or "/"])  # noqa: S606
