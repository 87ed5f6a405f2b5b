"""One hostile input: its name, how it is given, and the code under which it has to be refused."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.trust.hostile.ground import Ground

Side = Literal["device", "server", "nobody"]


@dataclass(frozen=True, slots=True)
class Case:
    """`give` gives the input and returns the code that was heard, which must be one of `codes`.

    side: whose log has the one line about it; nobody has when TLS or the broker refuses, before it comes to us.
    """

    name: str
    codes: str
    give: Callable[[Ground], str]
    side: Side

    def __str__(self) -> str:
        return self.name


def named(group: str, side: Side, cases: dict[str, tuple[str, Callable[[Ground], str]]]) -> list[Case]:
    """The cases of a table: codes and `give` by name."""
    return [Case(f"{group}: {name}", codes, give, side) for name, (codes, give) in cases.items()]
