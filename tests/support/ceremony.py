"""A fleet whose roles are held the way production holds them: root and targets by two of three people.

`Ceremony` has every person's key file and does with the command line what they would do with a stick: plan, sign one
after the other, publish. The operator's own directory has no key but the first one of each product, so that `push`
works; whoever needs another key takes it from `keys`.
"""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.fleet import Fleet, fleet

PEOPLE = ("anna", "ben", "carl")
PASSPHRASE = "correct horse battery staple"


class Ceremony:
    """The people of `here` with their keys; two of `PEOPLE` are enough for root and for targets."""

    def __init__(self, here: Fleet) -> None:
        self.fleet = here
        self.keys = here.work / "keys"
        self.passphrase = here.work / "passphrase"
        self._plans = 0

    def key(self, name: str) -> Path:
        """The private key file of a person or, `PRODUCT-1` and `PRODUCT-2`, of a product."""
        return self.keys / f"{name}.key"

    def public(self, name: str) -> Path:
        """The public half that lies beside it."""
        return self.keys / f"{name}.key.pub"

    def make_key(self, name: str, *, encrypted: bool = True) -> Path:
        """A new key file."""
        self.keys.mkdir(mode=0o700, exist_ok=True)
        self.passphrase.write_text(PASSPHRASE + "\n")
        self.passphrase.chmod(0o600)
        locked = ["--passphrase-file", str(self.passphrase)] if encrypted else ["--no-passphrase"]
        self.fleet.cli("keys", "create", name, "--out", str(self.key(name)), *locked)
        return self.key(name)

    def plan(self, *words: str) -> Path:
        """`beamfleet keys plan WORDS`: the file with the plan."""
        self._plans += 1
        out = self.fleet.work / f"plan-{self._plans}.json"
        self.fleet.cli("keys", "plan", *words, "--out", str(out))
        return out

    def sign(self, plan: Path, *people: str) -> None:
        """Each of the people adds a signature."""
        for name in people:
            self.fleet.cli(
                "keys", "sign", str(plan), "--key", str(self.key(name)), "--passphrase-file", str(self.passphrase),
                "--yes",
            )  # fmt: skip

    def publish(self, *plans: Path) -> None:
        """`beamfleet keys publish`."""
        self.fleet.cli("keys", "publish", *map(str, plans))

    def carry_out(self, *words: str, people: Sequence[str] = PEOPLE[:2]) -> None:
        """Plan, sign by `people`, publish."""
        plan = self.plan(*words)
        self.sign(plan, *people)
        self.publish(plan)

    def initialise(self) -> None:
        """Keys for all people, then the first root and targets of the server."""
        for name in PEOPLE:
            self.make_key(name)
        words = ["init"]
        for name in PEOPLE:
            words += ["--root", str(self.public(name)), "--targets", str(self.public(name))]
        self.carry_out(*words)

    def create_product(self, product: str) -> None:
        """A product that either of two keys may sign; the operator has the first one."""
        names = [f"{product}-1", f"{product}-2"]
        words = ["product", product, "--threshold", "1"]
        for name in names:
            self.make_key(name, encrypted=False)
            words += ["--key", str(self.public(name))]
        plan = self.plan(*words)
        self.sign(plan, *PEOPLE[:2], names[0])
        self.publish(plan)
        ring = self.fleet.work / "operator" / "keys" / "default"
        ring.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copy(self.key(names[0]), ring / f"product-{product}.key")

    def rotate_online(self, people: Sequence[str] = PEOPLE[:2]) -> Path:
        """What is done after a theft of the server: new online keys, named by a new root and new targets.

        The stolen keys are moved to the directory that comes back; devices follow when they next look.
        """
        stolen = self.fleet.work / f"stolen-{self._plans}"
        self.fleet.stop_server()
        (self.fleet.data / "keys").rename(stolen)
        self.fleet.serve()
        self.carry_out("online", people=people)
        return stolen


@contextlib.contextmanager
def production_fleet(work: Path, *products: str, settings: Sequence[str] = ()) -> Iterator[tuple[Fleet, Ceremony]]:
    """An open fleet with production keys; closed at the end, with all logs on a failure."""
    with fleet(work, settings=settings, development=False) as here:
        ceremony = Ceremony(here)
        ceremony.initialise()
        for product in products:
            ceremony.create_product(product)
        yield here, ceremony
