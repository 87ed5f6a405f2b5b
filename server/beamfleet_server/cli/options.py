"""Options that several commands share, and the way their help shows examples."""

from typing import Annotated

import typer

from beamfleet_server.cli import completion
from beamfleet_server.cli.output import Format

Printed = Annotated[Format, typer.Option("--output", "-o", help="How to print.", case_sensitive=False)]
Selector = Annotated[
    list[str] | None,
    typer.Option("--label", "-l", metavar="KEY=VALUE", help="Only devices with this label; repeat for more."),
]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", "-l", metavar="KEY=VALUE", help="A label for the device; repeat for more."),
]
DeviceId = Annotated[str, typer.Argument(metavar="DEVICE", help="A device's id.", autocompletion=completion.devices)]
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


def examples(*lines: str) -> str:
    """An epilog that shows each line as it is typed."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def group(text: str) -> typer.Typer:
    """A group of commands, `beamfleet NOUN VERB`."""
    return typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None)
