"""Owns what of a release's own words may leave the device unsealed: secrets out, the rest as it was. Pure.

A secret is what follows a word such as `password` or `token`, the user in a URL, a PEM block, a JSON web token, a long
number in hexadecimal or base64. Better a harmless word lost than a secret told; file names and function names stay.
Everything here takes time in proportion to the text, whoever wrote it.
"""

import re

GONE = "[redacted]"

_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]{1,40}-----.*?(?:-----END [A-Z0-9 ]{1,40}-----|\Z)", re.DOTALL)
_PEM_END = re.compile(r"\A[A-Za-z0-9+/=\s]*-----END [A-Z0-9 ]{1,40}-----")
_USER_INFO = re.compile(r"(?<=://)[^/\s]*@")
_WEB_TOKEN = re.compile(r"\beyJ[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*){0,4}")
_WHOLE_LINE = re.compile(
    r"""((?:authorization|cookie)["'>]{0,3}[ \t]{0,4}(?:=>|[:=,])[ \t]{0,4}|\b(?:bearer|basic)[ \t]{1,4})[^\r\n]+""",
    re.IGNORECASE,
)
_NAMED = re.compile(
    r"""((?:password|passwd|passphrase|pwd|secret|token|credentials?|community|psk|salt|cookie|(?<!bad)key
        |(?<![a-z])(?:pass|pw)(?=["'>]{0,3}[ \t]{0,4}(?:=>|[:=])))s?
        (?:[_-]?(?:base|hash|id|value|file|pem|hex|[0-9])){0,2}(?![a-z0-9])
        ["'>]{0,3}[ \t]{0,4}(?:=>|:=|[:=,])[ \t]{0,4}|(?<=-)(?:password|passwd|secret|token|key|setcookie)[ \t]{1,4})
        (?:<<[^>\r\n]*(?:>>)?|(?:~[a-z]{1,4})?"(?:[^"\\\r\n]|\\.)*"?|'(?:[^'\\\r\n]|\\.)*'?|[\[{(\#%][^\]})\r\n]*[\]})]*
        |[^\s,;&}\])>"']+)""",
    re.IGNORECASE | re.VERBOSE,
)
_HEX = re.compile(r"(?<![0-9A-Fa-f])[0-9A-Fa-f]{32,}")
_LONG = re.compile(r"[A-Za-z0-9+/_-]{40,}={0,2}")
_SEGMENT = re.compile(r"[^/]+")


def redact(text: str) -> str:
    """`text` with `[redacted]` in place of what looks like a secret."""
    text = _PEM.sub(GONE, _PEM_END.sub(GONE, text))
    text = _USER_INFO.sub(f"{GONE}@", text)
    text = _WHOLE_LINE.sub(rf"\1{GONE}", text)
    text = _NAMED.sub(rf"\1{GONE}", text)
    text = _WEB_TOKEN.sub(GONE, text)
    return _LONG.sub(_unless_readable, _HEX.sub(GONE, text))


def _unless_readable(found: re.Match[str]) -> str:
    """A path and a long name have no part in which digits and both kinds of letters are mixed at length."""
    return GONE if any(_is_random(part) for part in _SEGMENT.findall(found[0])) else found[0]


def _is_random(part: str) -> bool:
    if len(part) < 16 or not any(character.isdigit() for character in part):
        return False
    return len(part) >= 32 or (part != part.lower() and part != part.upper())
