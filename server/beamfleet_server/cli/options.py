"""Options that several commands share, alone or as a group, and the way their help shows examples."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from beamfleet_bundles.names import check_device

from beamfleet_server.cli import completion
from beamfleet_server.cli.output import Format

Printed = Annotated[Format, typer.Option("--output", "-o", help="How to print.", case_sensitive=False)]
Selector = Annotated[
    list[str] | None,
    typer.Option("--label", "-l", metavar="KEY=VALUE", help="Only devices with this label; repeat for more."),
]
Verdicts = Annotated[
    list[str] | None,
    typer.Option(
        "--verdict",
        metavar="VERDICT",
        help="Only these: failing, degraded, unknown, offline, healthy; by commas, or repeat.",
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", "-l", metavar="KEY=VALUE", help="A label for the device; repeat for more."),
]


def device_id(ctx: typer.Context, value: str) -> str:
    """An argument that is a device's id; `name.device`. What is only completed may be anything."""
    return value if ctx.resilient_parsing else check_device(value)


DeviceId = Annotated[
    str,
    typer.Argument(metavar="DEVICE", help="A device's id.", autocompletion=completion.devices, callback=device_id),
]
ProductName = Annotated[
    str, typer.Argument(metavar="PRODUCT", help="A product's name.", autocompletion=completion.products)
]
RolloutId = Annotated[
    int, typer.Argument(metavar="ROLLOUT", help="A rollout's number.", autocompletion=completion.rollouts)
]
AnyRollout = Annotated[
    int | None,
    typer.Argument(
        metavar="[ROLLOUT]", help="A rollout's number; the newest without.", autocompletion=completion.rollouts
    ),
]
Timeout = Annotated[
    str,
    typer.Option("--timeout", metavar="TIME", help="Stop following after this time (90, 15m, 1h) with exit code 5."),
]


def spread(of: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command with a parameter of the type `of`, a dataclass of options, has each of these in its place."""

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        own, options = inspect.signature(command), inspect.signature(of).parameters
        (place,) = (name for name, one in own.parameters.items() if one.annotation is of)

        @functools.wraps(command)
        def asked(**given: Any) -> None:
            command(**{place: of(**{name: given.pop(name) for name in options})}, **given)

        named = [
            each for name, one in own.parameters.items() for each in (options.values() if name == place else (one,))
        ]
        shown = own.replace(parameters=[each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in named])
        vars(asked)["__signature__"] = shown
        asked.__annotations__ = {each.name: each.annotation for each in named}
        return asked

    return decorated


def examples(*lines: str) -> str:
    """An epilog that shows each line as it is typed."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def group(text: str) -> typer.Typer:
    """A group of commands, `beamfleet NOUN VERB`."""
    return typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None)
