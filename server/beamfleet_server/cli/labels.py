"""Labels and selectors as they are typed: `-l site=berlin -l rack=2`, or `-l site=berlin,rack=2`. Pure."""

from collections.abc import Sequence

from beamfleet_bundles.errors import BeamfleetError
from beamfleet_bundles.names import check_label

from beamfleet_server.cli.errors import CommandError


def parse_labels(texts: Sequence[str]) -> dict[str, str]:
    """Labels of `key=value` texts, commas allowed. `usage.label` for anything else or for one key with two values."""
    labels: dict[str, str] = {}
    for pair in _split(texts):
        key, equals, value = pair.partition("=")
        if not equals:
            raise CommandError(
                "usage.label", f"{pair!r} is not a label", "labels are written key=value, as in -l site=berlin"
            )
        _check(key, value)
        if labels.setdefault(key, value) != value:
            raise CommandError(
                "usage.label", f"label {key} is given twice: {labels[key]} and {value}", "give one value"
            )
    return labels


def parse_changes(texts: Sequence[str]) -> dict[str, str | None]:
    """Labels to set (`key=value`) and to remove (`key-`, shown as None)."""
    removed = [pair[:-1] for pair in _split(texts) if pair.endswith("-") and "=" not in pair]
    for key in removed:
        _check(key, "x")
    labels = parse_labels([pair for pair in _split(texts) if "=" in pair or not pair.endswith("-")])
    if both := sorted(set(labels) & set(removed)):
        raise CommandError("usage.label", f"label {both[0]} is both set and removed", "give one of the two")
    return {**labels, **dict.fromkeys(removed)}


def selector(texts: Sequence[str]) -> str:
    """The API's form of a selector: `key=value,key=value`, sorted; "" selects every device."""
    return show_labels(parse_labels(texts))


def show_labels(labels: dict[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _split(texts: Sequence[str]) -> list[str]:
    return [pair.strip() for text in texts for pair in text.split(",") if pair.strip()]


def _check(key: str, value: str) -> None:
    try:
        check_label(key, value)
    except BeamfleetError as error:
        raise CommandError("usage.label", error.message, error.hint) from error
