"""Owns the sheet of labels that is printed and stuck on devices: one HTML file with a QR code for each, which needs no
network, no script and no other file. Pure; holds no secret unless it is given one.

The code reads `beamfleet:ID?fleet=HASH&key=FINGERPRINT`: which device, of which fleet, with which key, as far as that
is known. Whoever scans it can compare all three, and do nothing with them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import urlencode

import segno

FLEET_LENGTH = 16
"""Hex digits of the authority's hash that name a fleet."""
_STYLE = """
@page { size: A4; margin: 10mm }
body { margin: 0; font: 9pt/1.25 monospace; color: #000; background: #fff }
main { display: grid; grid-template-columns: repeat(auto-fill, 62mm); gap: 2mm }
section { box-sizing: border-box; width: 62mm; height: 29mm; padding: 2mm; display: flex; gap: 2mm;
  border: .2mm dashed #999; break-inside: avoid; overflow: hidden }
svg { width: 25mm; height: 25mm; flex: none }
div { overflow: hidden; overflow-wrap: anywhere }
b { display: block; font-size: 11pt }
small { display: block; font-size: 6.5pt }
@media screen { body { padding: 10mm } }
"""


@dataclass(frozen=True, slots=True)
class Label:
    """A device on the sheet; what is not known is empty."""

    id: str
    serial: str = ""
    fingerprint: str = ""
    labels: Mapping[str, str] | None = None
    token: str = ""


def fleet_of(authority: bytes) -> str:
    """What names a fleet on its labels: the beginning of the hash of its CA's certificate (DER)."""
    return hashlib.sha256(authority).hexdigest()[:FLEET_LENGTH]


def claim(label: Label, fleet: str) -> str:
    """What the code of a label says."""
    said = {"fleet": fleet, "key": label.fingerprint, "token": label.token}
    return f"beamfleet:{label.id}?{urlencode({key: value for key, value in said.items() if value})}"


def sheet(labels: Sequence[Label], fleet: str) -> str:
    """The page."""
    parts = "\n".join(_section(label, fleet) for label in labels)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>Labels of {len(labels)} devices</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{parts}\n</main>\n</body>\n</html>\n"
    )


def is_sheet(content: bytes) -> bool:
    """Whether a file that begins so is such a page, which a newer one may replace; an empty one is nobody's."""
    return not content or (content.startswith(b"<!DOCTYPE html>\n") and b"<title>Labels of " in content)


def _section(label: Label, fleet: str) -> str:
    code = segno.make_qr(claim(label, fleet), error="m").svg_inline(omitsize=True, border=4)
    key = f"key {_grouped(label.fingerprint[:16])}" if label.fingerprint else ""
    placed = ",".join(f"{name}={value}" for name, value in sorted((label.labels or {}).items()))
    secret = "holds a secret: a token that enrols this device" if label.token else ""
    serial = f"S/N {label.serial}" if label.serial else ""
    small = (serial, key, f"fleet {_grouped(fleet)}", placed, secret)
    lines = "".join(f"<small>{escape(text)}</small>" for text in small if text)
    return f'<section data-device="{escape(label.id)}">{code}<div><b>{escape(label.id)}</b>{lines}</div></section>'


def _grouped(digits: str) -> str:
    return " ".join(digits[place : place + 4] for place in range(0, len(digits), 4))
