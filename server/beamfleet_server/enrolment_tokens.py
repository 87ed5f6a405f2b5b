"""Owns what a token looks like with which a device enrols, so that nobody takes an operator's for one; keeps none."""

import re
import secrets

BEGINNING = "enrol-"
_FORM = re.compile(BEGINNING + r"[A-Za-z0-9_-]{43}")


def new_enrolment_token() -> str:
    """A token of 256 random bits."""
    return BEGINNING + secrets.token_urlsafe(32)


def is_enrolment_token(text: str) -> bool:
    """Whether it looks like one; whether it is good only the server knows."""
    return _FORM.fullmatch(text) is not None
