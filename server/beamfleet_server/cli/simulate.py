"""`beamfleet simulate`: a fleet that is not there, for rehearsing rollouts against a real server."""

import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from beamfleet_bundles.names import check_device

from beamfleet_server.cli.errors import RemoteError
from beamfleet_server.cli.files import read_file
from beamfleet_server.cli.flash import addresses
from beamfleet_server.cli.options import Printed, examples
from beamfleet_server.cli.output import Format, Item, Output
from beamfleet_server.cli.quantities import parse_duration
from beamfleet_server.cli.session import Session

EXAMPLES = examples(
    "beamfleet simulate --devices 2000 --for 10m",
    "beamfleet simulate --devices 500 --scenario bad-day.yaml --seed 7 -o json",
    "beamfleet simulate --remove",
)
TOKEN_LIFE_S = 3600
SHOW_S = 10
"""Seconds between two lines of counters, where stderr is no terminal."""
SPARE_FILES = 256
MOST = 100_000


def simulate(
    ctx: typer.Context,
    devices: Annotated[int, typer.Option("--devices", metavar="N", min=1, max=MOST, help="How many.")] = 100,
    scenario: Annotated[
        Path | None, typer.Option("--scenario", metavar="FILE", help="Who they are and how they behave, as YAML.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="N", min=0, help="In place of the scenario's: another fate for each."),
    ] = None,
    prefix: Annotated[str, typer.Option("--prefix", metavar="TEXT", help="How their ids begin.")] = "sim-",
    state: Annotated[
        Path | None,
        typer.Option(
            "--state", metavar="DIR", help="Where they keep keys and memory; else simulated in the configuration."
        ),
    ] = None,
    duration: Annotated[str, typer.Option("--for", metavar="TIME", help="End after this time; else at Ctrl-C.")] = "",
    speed: Annotated[
        float,
        typer.Option("--speed", metavar="X", min=0.01, max=1000, help="All that is scripted goes X times as fast."),
    ] = 1.0,
    download: Annotated[
        int, typer.Option("--download", metavar="BYTES", min=0, help="Really fetch so much of each pack, over HTTPS.")
    ] = 0,
    handshakes: Annotated[
        int, typer.Option("--handshakes", metavar="N", min=1, max=1000, help="How many connect at the same time.")
    ] = 48,
    remove: Annotated[
        bool, typer.Option("--remove", help="Delete them from the server instead, and their keys.")
    ] = False,
    output: Printed = Format.TABLE,
) -> None:
    """Run thousands of devices that are not there, in this one process.

    They enrol, hold MQTT sessions with certificates of their own, verify what they are assigned and report as real
    devices do; what becomes of an update is a matter of the scenario and the seed. They stay known to the server, and
    go on where they were with the next run, until --remove.
    """
    import asyncio

    from beamfleet_server.cli.signing import Signing
    from beamfleet_server.simulator import scenario as scenarios
    from beamfleet_server.simulator.enrolment import Fleet as Place
    from beamfleet_server.simulator.enrolment import Identities
    from beamfleet_server.simulator.fleet import Fleet, Run

    session = Session.of(ctx, output)
    seconds = parse_duration(duration) if duration else 0
    directory = state or session.config_dir[0] / "simulated" / session.context_name[0] / prefix.strip("-")
    identities = Identities(directory)
    if remove:
        _remove(session, identities)
        return
    script = scenarios.read(read_file(scenario, "the scenario")) if scenario else scenarios.Scenario()
    names = [check_device(f"{prefix}{number:05}") for number in range(1, devices + 1)]
    info = session.client.get("/server")
    root = Signing(session.client, session.context.keys).roots()[0]
    place = Place(**addresses(info["listeners"], session.context.server), authorities=info["fleet_ca"], root=root)
    run = Run(names, script.seed if seed is None else seed, seconds, speed, handshakes, download)
    _allow_files(devices)
    with identities.held():
        counter = _Counter(session.output)
        fleet = Fleet(run, script, identities, place, counter.show)
        made = fleet.enrol(lambda labels, count: _token(session, prefix, labels, count), counter.enrolled)
        if made:
            session.output.note(f"{made} devices enrolled")
        summary = asyncio.run(fleet.run())
        counter.close()
    session.output.item(summary, _lines(summary), "devices")


def _token(session: Session, prefix: str, labels: Mapping[str, str], count: int) -> str:
    asked = {"count": count, "prefix": prefix, "labels": dict(labels), "expires_in_s": TOKEN_LIFE_S}
    return str(session.client.post("/tokens", asked)["token"])


def _remove(session: Session, identities: Any) -> None:
    with identities.held():
        names = identities.names()
        for name in names:
            try:
                session.client.delete(f"/devices/{quote(name, safe='')}")
            except RemoteError as error:
                if error.code != "device.unknown":
                    raise
            identities.forget([name])
        for left in ("devices.json", "status.json"):
            (identities.directory / left).unlink(missing_ok=True)
    session.output.done({"removed": len(names)}, f"{len(names)} simulated devices removed", "removed")


def _allow_files(devices: int) -> None:
    """As many open files as there are devices, if the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * devices + SPARE_FILES
    if soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


class _Counter:
    """Counters on stderr: one line that changes on a terminal, else one now and then."""

    def __init__(self, output: Output) -> None:
        self._stream, self._terminal, self._turn = output.stderr, output.stderr.isatty(), 0

    def enrolled(self, count: int, of: int) -> None:
        if count == of or count % 100 == 0:
            self._say(f"enrolling {count}/{of}", always=count == of)

    def show(self, summary: dict[str, Any]) -> None:
        from beamfleet_server.simulator.tally import line

        self._say(line(summary), always=self._turn % SHOW_S == 0)
        self._turn += 1

    def close(self) -> None:
        if self._terminal:
            self._stream.write("\n")

    def _say(self, text: str, *, always: bool) -> None:
        if self._terminal:
            self._stream.write(f"\r\x1b[K{text[:200]}")
        elif always:
            self._stream.write(f"{text}\n")
        self._stream.flush()


def _lines(summary: Item) -> list[tuple[str, object]]:
    def shown(value: object) -> object:
        return ", ".join(f"{key} {count}" for key, count in value.items()) if isinstance(value, dict) else value

    return [(key.replace("_", " "), shown(value)) for key, value in summary.items()]
