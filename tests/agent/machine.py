"""What a machine tells about itself, as files below a directory: network cards, serial numbers, machine-id."""

from pathlib import Path


def write(place: Path, text: str) -> None:
    """A file, with the directories above it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)


def card(machine: Path, name: str, address: str, *, assigned: str = "0", kind: str = "1", wireless: bool = False,
         device: bool = True) -> None:  # fmt: skip
    """A network card in /sys."""
    folder = machine / "sys/class/net" / name
    write(folder / "address", f"{address}\n")
    write(folder / "addr_assign_type", f"{assigned}\n")
    write(folder / "type", f"{kind}\n")
    for part, there in (("device", device), ("phy80211", wireless)):
        if there:
            (folder / part).mkdir()
