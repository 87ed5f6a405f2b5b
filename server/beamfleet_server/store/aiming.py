"""Owns which bundle a device is given: of the release for its target, or of the stepping stone before it.

Devices differ in little that matters here, so the choice is made once for each kind of device, and SQL finds it again
for every device by its kind.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, Integer, String, case, cast, false, literal, null, select, tuple_

from beamfleet_server.fleet.plan import Plan
from beamfleet_server.fleet.states import TARGET, VERSION
from beamfleet_server.fleet.targets import choose
from beamfleet_server.store import bundles
from beamfleet_server.store.bundles import PublishedBundle
from beamfleet_server.store.tables import applications

Kind = tuple[str, ...]
MACHINE = (applications.c.arch, applications.c.libc, applications.c.hardware)
RUNS = (applications.c.product, applications.c.version, applications.c.phase)


@dataclass(frozen=True, slots=True)
class Aims:
    """What each kind of device gets. A device that has not spoken yet is of no kind."""

    by_bundle: dict[int, list[Kind]] = field(default_factory=lambda: defaultdict(list))
    without: dict[str, list[Kind]] = field(default_factory=lambda: defaultdict(list))
    found: dict[int, PublishedBundle] = field(default_factory=dict)
    steps: frozenset[int] = frozenset()
    staged: bool = False

    @property
    def kinds(self) -> int:
        """How many kinds of device there are."""
        return sum(map(len, (*self.by_bundle.values(), *self.without.values())))

    def bundle(self) -> ColumnElement[Any]:
        """The id of the bundle of a device, on `applications`; null for one that gets none, or has not spoken yet."""
        whens = [(self._is(kinds), literal(bundle_id, Integer)) for bundle_id, kinds in self.by_bundle.items()]
        return case(*whens, else_=null()) if whens else cast(null(), Integer)

    def manifest(self) -> ColumnElement[Any]:
        """The manifest of that bundle."""
        whens = [(self._is(kinds), literal(self.found[each].manifest)) for each, kinds in self.by_bundle.items()]
        return case(*whens, else_=null()) if whens else cast(null(), String)

    def step(self) -> ColumnElement[bool]:
        """Whether that bundle is a stepping stone."""
        kinds = [kind for bundle_id in self.steps for kind in self.by_bundle[bundle_id]]
        return self._is(kinds) if kinds else false()

    def lacks(self) -> ColumnElement[str]:
        """Why a device that has spoken gets none: `target`, `version`; else empty."""
        whens = [(self._is(kinds), literal(why)) for why, kinds in self.without.items()]
        return case(*whens, else_="") if whens else literal("")

    def _is(self, kinds: Sequence[Kind]) -> ColumnElement[bool]:
        columns = MACHINE + RUNS if self.staged else MACHINE
        return (applications.c.state_seq >= 0) & tuple_(*columns).in_(kinds)


def aim(connection: Connection, plan: Plan) -> Aims:
    """What devices of every kind there is get of the plan."""
    staged = bool(plan.steps)
    columns = MACHINE + RUNS if staged else MACHINE
    kinds = connection.execute(select(*columns).where(applications.c.state_seq >= 0).distinct()).all()
    releases: dict[str, list[PublishedBundle]] = {}
    aims = Aims(staged=staged)
    steps: set[int] = set()
    for row in kinds:
        kind = tuple(row)
        version = plan.aim(*kind[3:6]) if staged else plan.version
        if version is None:
            aims.without[VERSION].append(kind)
            continue
        if version not in releases:
            releases[version] = bundles.of_release(connection, plan.product, version)
        chosen = choose(releases[version], dict(zip(("arch", "libc", "hardware"), kind, strict=False)))
        if chosen is None:
            aims.without[TARGET].append(kind)
            continue
        aims.by_bundle[chosen.id].append(kind)
        aims.found[chosen.id] = chosen
        if version != plan.version:
            steps.add(chosen.id)
    return Aims(aims.by_bundle, aims.without, aims.found, frozenset(steps), staged)
