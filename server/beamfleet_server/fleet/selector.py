"""Owns the selector, `key=value,key2=value2`: which devices are meant. An empty one means all of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.names import check_label

from beamfleet_server.errors import ServerError

MOST_TERMS = 20


@dataclass(frozen=True, slots=True)
class Selector:
    """Label values that a device must all have, sorted by key."""

    terms: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Selector":
        """The selector that `text` spells; error `request.selector`."""
        terms: dict[str, str] = {}
        for part in filter(None, (each.strip() for each in text.split(","))):
            key, separator, value = part.partition("=")
            try:
                check_label(key, value)
            except BundleError as error:
                raise _refused(part, error.message) from None
            if not separator or terms.setdefault(key, value) != value:
                raise _refused(part, f"the label {key} is asked for twice")
        if len(terms) > MOST_TERMS:
            raise _refused(text[:80], f"more than {MOST_TERMS} labels")
        return cls(tuple(sorted(terms.items())))

    def __str__(self) -> str:
        return ",".join(f"{key}={value}" for key, value in self.terms)

    def matches(self, labels: Mapping[str, str]) -> bool:
        """True if `labels` has every term."""
        return all(labels.get(key) == value for key, value in self.terms)


def _refused(part: str, why: str) -> ServerError:
    return ServerError("request.selector", f"{part!r} is not a selector: {why}", "write key=value,key2=value2")
