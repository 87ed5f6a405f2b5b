"""A server whose root and targets are held by two of three people, with everybody's keys at hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests
from beamfleet_bundles import keys

from tests.server.cli.terminal import Ended, Operator
from tests.support.fleet import Fleet

Capture = pytest.CaptureFixture[str]
PEOPLE = ("anna", "ben", "carl")


def code_of(ended: Ended) -> str:
    """The code of an error printed for people."""
    (line,) = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    return line.rpartition("(")[2].rstrip(")")


class House:
    """A server, the operator who talks to it, and everybody's keys in one drawer."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.fleet = Fleet(work / "first")
        self.operator = Operator(work / "operator")
        self.drawer = work / "drawer"
        self.drawer.mkdir()
        self._plans = 0

    def key(self, name: str) -> Path:
        """A person's key, made when it is first asked for."""
        path = self.drawer / f"{name}.key"
        if not path.exists():
            made = keys.generate(path)
            keys.write_public(self.pub(name), keys.named(made.public_key, name))
        return path

    def pub(self, name: str) -> Path:
        return self.drawer / f"{name}.pub"

    def pubs(self, flag: str, *names: str) -> list[str]:
        """`--flag FILE.pub` for each of them."""
        return [word for name in names for word in (flag, str((self.key(name), self.pub(name))[1]))]

    def run(self, capsys: Capture, *words: str) -> Ended:
        return self.operator.run(*words, capsys=capsys)

    def plan(self, capsys: Capture, *words: str) -> Path:
        self._plans += 1
        path = self.work / f"plan-{self._plans}.json"
        planned = self.run(capsys, "keys", "plan", *words, "--out", str(path))
        assert planned.code == 0, planned.err
        return path

    def sign(self, capsys: Capture, plan: Path, *names: str) -> None:
        for name in names:
            signed = self.run(capsys, "keys", "sign", str(plan), "--key", str(self.key(name)), "--yes")
            assert signed.code == 0, signed.err

    def publish(self, capsys: Capture, *plans: Path) -> Ended:
        return self.run(capsys, "keys", "publish", *map(str, plans), "-o", "json")

    def carry_out(self, capsys: Capture, *words: str, people: Sequence[str] = PEOPLE[:2]) -> None:
        plan = self.plan(capsys, *words)
        self.sign(capsys, plan, *people)
        published = self.publish(capsys, plan)
        assert published.code == 0, published.out

    def served(self, role: str) -> bytes:
        """The newest metadata of a role, as an operator gets it."""
        return self.get(f"/metadata/{role}").content

    def get(self, path: str) -> requests.Response:
        return self._ask("GET", path)

    def post(self, path: str, body: Mapping[str, object]) -> requests.Response:
        return self._ask("POST", path, json=body)

    def _ask(self, method: str, path: str, **content: Any) -> requests.Response:
        token = (self.fleet.data / "admin.token").read_text().strip()
        url, ca = f"{self.fleet.address('operators')}/api/v1{path}", str(self.fleet.data / "ca.pem")
        headers = {"Authorization": f"Bearer {token}"}
        return requests.request(method, url, timeout=60, verify=ca, headers=headers, **content)
