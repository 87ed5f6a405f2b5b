"""What the keys of this machine have signed upon: the newest root that a plan was built on, one file for each key.

CONFIG_DIR/signed/KEYID.json. An offline machine has no server to ask, so it cannot know whether a plan tells the truth
about what was there before. What it can know is what it has seen: a later plan must build on the same root. Whoever
shows it another fleet, or an older state of this one, is found out.
"""

from pathlib import Path

from beamfleet_bundles import chain, durable

from beamfleet_server.cli.contexts import make_private
from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.plans import Held


class Witness:
    def __init__(self, directory: Path) -> None:
        self._directory = directory / "signed"

    def check(self, keyid: str, held: Held) -> None:
        """`plan.other_fleet` unless `held` goes on from what this key has signed upon before."""
        try:
            seen = self._file(keyid).read_bytes()
        except FileNotFoundError:
            return
        if seen not in held.roots:
            version = chain.parse_root(seen).signed.version
            raise CommandError(
                "plan.other_fleet",
                f"the plan does not build on root {version}, which the key {keyid[:8]} has signed upon before",
                f"where does it come from? If this key begins anew on purpose, move {self._file(keyid)} away",
            )

    def remember(self, keyid: str, held: Held) -> None:
        """What this key has signed upon now."""
        if held.roots:
            make_private(self._directory)
            durable.replace(self._file(keyid), held.roots[-1])

    def _file(self, keyid: str) -> Path:
        return self._directory / f"{keyid}.json"
