"""The shapes of evidence and of logs as they travel to operators."""

from typing import Literal

from pydantic import BaseModel


class Evidence(BaseModel):
    """Evidence of a device; `bytes` is what has come of it. Only who holds one of the keys can open it."""

    id: str
    device: str
    time: str
    state: Literal["asked", "complete"]
    bytes: int


class Recipient(BaseModel):
    """Who can open evidence, as the fleet's targets metadata says; `key` is the id of the public half."""

    name: str
    key: str


class AskedEvidence(Evidence):
    """Evidence that a device was asked for just now."""

    recipients: list[Recipient]
