"""Owns the tables of devices' health: the newest report of each application, and its bounded history."""

from sqlalchemy import JSON, BigInteger, Column, ForeignKey, Integer, String, Table

from beamfleet_server.store.tables import metadata

HEADLINES = (
    "memory",
    "processes",
    "run_queue",
    "schedulers",
    "queue",
    "atoms_permille",
    "load",
    "host_memory_permille",
    "disk_permille",
    "temperature",
    "restarts",
)
"""What a list shows of a report and a history keeps, each a number or nothing: bytes; a count; a count; permille of
the schedulers' time; messages in the longest queue; permille of the limit; load over a minute times 100; permille used;
permille used; thousandths of a degree; children that supervisors started again, since the VM started."""

health = Table(
    "health",
    metadata,
    Column("device_id", ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
    Column("app", String, primary_key=True),
    Column("time", BigInteger, nullable=False),
    Column("received", BigInteger, nullable=False),
    Column("verdict", String, nullable=False),
    Column("reasons", JSON, nullable=False),
    Column("starts", BigInteger, nullable=False),
    Column("sections", JSON, nullable=False),
    *(Column(name, BigInteger) for name in HEADLINES),
    Column("queue_name", String, nullable=False, default=""),
    Column("uptime_ms", BigInteger),
    Column("clock_offset_s", BigInteger, nullable=False, default=0),
    Column("dropped", BigInteger, nullable=False, default=0),
)
"""`time` is the device's, `received` ours, `clock_offset_s` how far the first is ahead of the second. `verdict` and
`reasons`, `[check, level, detail]` each, are what `checks` made of it then. `sections` are merged. `dropped`: samples
that the device could not keep while it had no session."""

samples = Table(
    "samples",
    metadata,
    Column("resolution", Integer, primary_key=True, autoincrement=False),
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("device_id", Integer, primary_key=True, autoincrement=False),
    Column("app", String, primary_key=True),
    Column("time", BigInteger, nullable=False),
    Column("n", BigInteger, nullable=False),
    *(Column(f"{name}_{kind}", BigInteger) for name in HEADLINES for kind in ("avg", "max")),
    sqlite_with_rowid=False,
)
"""A ring for each device and resolution (seconds): the bucket that begins at `time` is in slot `time / resolution`,
modulo the ring's length. The fleet's buckets of one time lie side by side, so that a batch of them touches few pages.
No foreign key: it would need an index by device, and cost more than the rows; `samples.forget` removes them."""
