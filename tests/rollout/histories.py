"""Histories of fleets, made from a seed: devices of all kinds, plans, operators, lost and late words.

`play(seed)` plays one on the reference (`memory_world`), checks after each op what must always hold (`watch`), and
gives back the ops, so that they can be replayed in a real store, whose outcome must be equal.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from random import Random

from beamfleet_server.fleet.plan import NETWORKS, Phase, Plan, Size, Step
from beamfleet_server.fleet.selection import Selection
from beamfleet_server.fleet.versions import Condition
from beamfleet_server.fleet.window import Window, zone

from tests.rollout.behaviours import Behaviour, SimDevice
from tests.rollout.player import HOUR_S, VERSIONS, Player
from tests.rollout.watch import Watch
from tests.rollout.world import BOARD, PLAIN, PRODUCT, Label, Lift, Machine, Op, Outcome, Pin, Restart, Start, Unpin

STARTS = (1_774_700_000, 1_792_800_000, 1_799_990_000)
"""28 March and 24 October 2026, hours before the clocks of Europe change; an ordinary day in January 2027."""
ZONES = ("Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia", "", "Mars/Base")
STONE, TOP = "1.5.0", "2.0.0"

Trouble = tuple[int, Callable[[], object]]
"""In how many seconds, and what."""


@dataclass(frozen=True, slots=True)
class History:
    """What happened, and what became of it on the reference."""

    seed: int
    ops: list[Op]
    outcome: Outcome
    covered: frozenset[str] = frozenset()
    """Words for what happened in it, to see that the generator reaches everything."""


def play(seed: int) -> History:
    """The history of this seed; AssertionError if something does not hold that must."""
    chance = Random(seed)  # noqa: S311 # not a secret
    bad = frozenset({TOP}) if chance.random() < 0.35 else frozenset()
    player = Player(seed, chance, chance.choice(STARTS) + chance.randint(0, 3600), bad)
    player.watch = Watch(player.world, player.devices, bad)
    player.world.offered = player.watch.offered
    player.late = chance.choice((0, 0, 60))
    player.luck = chance.random() < 0.4
    _stage(player)
    player.run()
    player.watch.ended(player.now)
    came_to = player.world.outcome()
    outcome = replace(came_to, refused=frozenset(player.refused))
    return History(seed, player.ops, outcome, frozenset(player.watch.covered | player.world.covered))


def _stage(player: Player) -> None:
    """Who is there, what is published, and what will come."""
    chance = player.chance
    boards = chance.random() < 0.3
    for version in VERSIONS:
        player.published_now(version, (PLAIN, BOARD) if boards else (PLAIN,))
    calm = chance.random() < 0.4
    for number in range(chance.choice((1, 2, 3, 4, 5, 6, 8))):
        device, labels = _device(player, f"gw-{number}", calm=calm)
        player.enrol(device, labels)
    for number in range(chance.choice((0, 0, 1, 2))):
        device, labels = _device(player, f"late-{number}", calm=calm)
        player.at(chance.choice((30, 500, 5000, 90_000)), partial(player.enrol, device, labels))
    plans = [_plan(player, TOP)]
    if chance.random() < 0.3:
        plans.append(_plan(player, chance.choice((TOP, "2.1.0", "1.1.0"))))
    for index, plan in enumerate(plans):
        start = Start(plan)
        player.at(10 if index == 0 else chance.choice((10, 60, 200, 4000)), partial(player.do, start))
    if not calm:
        _trouble(player, len(plans))


def _device(player: Player, name: str, *, calm: bool) -> tuple[SimDevice, dict[str, str]]:
    chance = player.chance
    behaviour = Behaviour.GOOD
    if chance.random() < (0.1 if calm else 0.5):
        odd = [each for each in Behaviour if each not in (Behaviour.LIAR, Behaviour.CLONED)]
        behaviour = chance.choice(odd if calm else list(Behaviour))
    board, arm = chance.random() < 0.3, chance.random() < 0.06
    machine = Machine(
        arch="aarch64" if arm else "x86_64",
        hardware="kiosk" if board else "",
        timezone=chance.choice(ZONES),
        network=chance.choice((*NETWORKS[:3], "", "")),
    )
    labels = {"ring": chance.choice(("beta", "stable"))}
    if chance.random() < 0.2:
        labels["timezone"] = chance.choice(ZONES[:5])
    lucky = player.luck and chance.random() < 0.5
    bad = frozenset() if lucky else player.bad
    device = SimDevice(name, machine, behaviour, bad, chance, player.target(board, arm))
    device.version = chance.choice(("1.0.0", "1.0.0", "1.0.0", "1.1.0", "1.5.0", "2.0.0", ""))
    device.phase = "committed" if device.version else chance.choice(("none", "committed"))
    device.online = behaviour is not Behaviour.SILENT and chance.random() < 0.93
    return device, labels


def _window(player: Player) -> Window:
    """Any window, or one that closes for somebody soon after the rollout has begun."""
    chance = player.chance
    days = frozenset(chance.sample(range(7), chance.choice((1, 4, 7))))
    if chance.random() < 0.5:
        return Window(days, chance.randrange(0, 1440, 30), chance.randrange(0, 1440, 30))
    somebody = chance.choice(list(player.devices.values()))
    local = datetime.fromtimestamp(player.now, zone(somebody.machine.timezone))
    minute = local.hour * 60 + local.minute
    return Window(frozenset(range(7)), (minute - 60) % 1440, (minute + chance.randint(1, 3)) % 1440)


def _plan(player: Player, version: str) -> Plan:
    chance = player.chance
    labels = (("ring", ("beta",)),) if chance.random() < 0.2 else ()
    versions = (Condition.parse("<2.0.0"),) if chance.random() < 0.15 else ()
    percent = chance.choice((100, 100, 100, 50))
    canary = Phase(
        "canary",
        chance.choice((Size(1), Size(1), Size(2), Size(40, percent=True))),
        soak=chance.choice((0, 0, 60, 600)),
        gate=chance.random() < 0.15,
        failures=chance.choice((Size(0), Size(0), Size(0), Size(1))),
        successes=chance.choice((100, 100, 50)),
        max_parallel=chance.choice((0, 0, 0, 1)),
    )
    middle = Phase("half", Size(50, percent=True), soak=chance.choice((0, 300)), failures=Size(20, percent=True))
    rest = Phase(
        "rest", failures=chance.choice((Size(0), Size(1), Size(20, percent=True))), soak=chance.choice((0, 0, 120))
    )
    phases = chance.choice(((canary, rest), (canary, rest), (canary, middle, rest), (rest,)))
    return Plan(
        PRODUCT,
        version,
        Selection(all=True, labels=labels, versions=versions, percent=percent),
        phases,
        max_parallel=chance.choice((0, 1, 2, 3)),
        deadline=chance.choice((600, 3600, 86_400)),
        expires=chance.choice((6 * HOUR_S, 2 * 86_400, 5 * 86_400)),
        retries=chance.choice((0, 1, 3)),
        backoff=chance.choice((0, 60, 600)),
        window=(_window(player),) if chance.random() < 0.2 else (),
        priority=chance.choice((0, 0, 0, 5)),
        network=chance.choice((NETWORKS, NETWORKS, NETWORKS, ("wired", "unknown"))),
        steps=(Step(STONE, STONE),) if version.startswith("2") and chance.random() < 0.2 else (),
    )


def _trouble(player: Player, plans: int) -> None:
    """What people do, and what happens to devices."""
    chance = player.chance
    for _ in range(chance.choice((1, 2, 3, 5))):
        after, happens = _of_people(player, plans) if chance.random() < 0.5 else _of_a_device(player)
        player.at(min(after, chance.choice((60, 200, after))), happens)
    if chance.random() < 0.7:
        for number in range(1, plans + 1):
            player.at(chance.choice((300, 5000)), partial(player.act, "approve", number))


def _of_people(player: Player, plans: int) -> Trouble:
    chance = player.chance
    if chance.random() < 0.15:
        return chance.randint(100, 9000), partial(player.then_look, Lift(TOP))
    if chance.random() < 0.1:
        return chance.randint(1, 900), partial(player.do, Restart())
    word, within = chance.choice(
        (("pause", 400), ("resume", 2000), ("approve", 2000), ("abort", 3000), ("undo", 4000), ("retry", 4000))
    )
    return chance.randint(20, within), partial(player.act, word, chance.randint(1, plans + 1))


def _of_a_device(player: Player) -> Trouble:
    chance = player.chance
    device = chance.choice(list(player.devices.values()))
    match chance.choice(("away", "label", "pin", "unpin", "stick", "moves")):
        case "away":
            return chance.randint(5, 600), partial(player.away, device, chance.choice((50, 1000, 90_000)))
        case "label":
            ring = chance.choice(("beta", "stable", None))
            return chance.randint(5, 3000), partial(player.then_look, Label(device.name, (("ring", ring),)))
        case "pin":
            return chance.randint(5, 3000), partial(player.then_look, Pin(device.name))
        case "unpin":
            return chance.randint(5, 6000), partial(player.then_look, Unpin(device.name))
        case "stick":
            return chance.randint(5, 2000), partial(player.stick, device, chance.choice(VERSIONS))
        case _:
            moved = replace(device.machine, network="cellular", timezone=chance.choice(ZONES))
            return chance.randint(5, 2000), partial(player.moves, device, moved)
