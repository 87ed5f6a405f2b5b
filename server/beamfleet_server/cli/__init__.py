"""The operator's command line, `beamfleet`: a client of the operators' API, with two exceptions.

`serve` starts the server, and `bundle build|inspect` work on files alone. Each module here is a noun with its
commands; what they stand on:

    session     one run of the command                       output     table, json, yaml, name; errors; hostile text
    arguments   what the framework refuses of the words      destinations  files for what is shown once
    contexts    servers, tokens, certificates on disk        client     the API: errors, retries, paging
    keyring     keys and the metadata that is trusted        signing    fetch, verify, sign, compare-and-swap
    plans       what people sign, as a file on a stick       ceremony   from the server to a plan and back
    building    a bundle from a release                      publishing a bundle's way to the server
    rollout_file, rollout_flags  a plan as it is written     starting, steering  what is done to a rollout
    diagnosing, unpacking  evidence and logs of a device      evidence_keys  who opens it
    following   waiting for a rollout to end                 progress, pace      how that looks

Exit codes: 0 done, 1 error, 2 usage, 3 halted by threshold, 4 aborted, 5 deadline. Nothing heavier than typer is
imported before a command needs it, so that `--help` and completion answer at once.
"""

import signal
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from beamfleet_bundles.errors import BeamfleetError

from beamfleet_server import __version__
from beamfleet_server.cli import (
    approvals,
    audit,
    authorities,
    bundles,
    completion,
    config,
    diagnosing,
    events,
    flash,
    health,
    initialisation,
    keys,
    login,
    operators,
    products,
    push,
    quarantine,
    retirement,
    serving,
    simulate,
    steering,
    tokens,
    top,
    webhooks,
)
from beamfleet_server.cli.arguments import asked_format, is_help, leave_reading, refusal
from beamfleet_server.cli.errors import DONE, ERROR, USAGE, CommandError, exit_code
from beamfleet_server.cli.session import Session

app = typer.Typer(
    name="beamfleet",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"beamfleet {__version__}")
        raise typer.Exit


_VERSION = typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=show_version)


@app.callback(epilog=push.EXAMPLES)
def beamfleet(
    ctx: typer.Context,
    config_dir: Annotated[
        str,
        typer.Option("--config-dir", metavar="DIR", help="Else $BEAMFLEET_CONFIG_DIR, else ~/.config/beamfleet."),
    ] = "",
    context: Annotated[
        str,
        typer.Option(
            "--context",
            metavar="NAME",
            help="Which server; else $BEAMFLEET_CONTEXT, else the current one.",
            autocompletion=completion.contexts,
        ),
    ] = "",
    _version: Annotated[bool, _VERSION] = False,
) -> None:
    """Update and watch fleets of Linux devices that run Erlang/OTP or Elixir releases."""
    Session.of(ctx).choose(config_dir, context)


app.command("push", epilog=push.EXAMPLES)(push.push)
app.add_typer(steering.app, name="rollout")
app.add_typer(approvals.app, name="approval")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(retirement.app, name="device")
app.command("events", epilog=events.EXAMPLES)(events.events)
app.command("logs", epilog=diagnosing.LOGS_EXAMPLES)(diagnosing.logs)
app.add_typer(webhooks.app, name="webhook")
app.command("health", epilog=health.EXAMPLES)(health.health)
app.command("top", epilog=top.EXAMPLES)(top.top)
app.add_typer(bundles.app, name="bundle")
app.add_typer(products.app, name="product")
app.add_typer(keys.app, name="keys")
app.command("flash", epilog=flash.EXAMPLES)(flash.flash)
app.add_typer(tokens.app, name="token")
app.add_typer(operators.app, name="operator")
app.add_typer(authorities.app, name="authority")
app.add_typer(audit.app, name="audit")
app.command("simulate", epilog=simulate.EXAMPLES)(simulate.simulate)
app.command("serve", epilog=serving.EXAMPLES)(serving.serve)
app.command("login", epilog=login.LOGIN_EXAMPLES)(login.login)
app.command("logout", epilog=login.LOGOUT_EXAMPLES)(login.logout)
app.add_typer(login.app, name="context")
app.command("init", epilog=initialisation.EXAMPLES)(initialisation.init)
app.command("config", epilog=config.CONFIG_EXAMPLES)(config.config)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (`sys.argv` without arguments) and give its exit code."""
    session = Session.here()
    words = list(sys.argv[1:] if arguments is None else arguments)
    session.output.format = asked_format(words)
    command = typer.main.get_command(app)
    leave_reading(command)
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # what was begun is cleared away
    try:
        code = command.main(args=words, prog_name="beamfleet", obj=session, standalone_mode=False)
        session.mark()
        return code if isinstance(code, int) else DONE
    except SystemExit as end:
        session.mark()
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BeamfleetError as error:
        session.output.problem(error)
        return exit_code(error)
    except OSError as error:
        what = f"{error.filename or 'a file'}: {error.strerror or error}"
        session.output.problem(CommandError("file.failed", what, "check the path, its owner and the space on the disk"))
        return ERROR
    except typer.Abort:
        session.output.note("Aborted!")
        return ERROR
    except Exception as error:
        if is_help(error):
            typer.echo(str(error), err=True)
            return USAGE
        if (refused := refusal(error)) is None:
            raise
        session.output.problem(refused)
        return exit_code(refused)
    finally:
        session.close()
        signal.signal(signal.SIGTERM, before)
