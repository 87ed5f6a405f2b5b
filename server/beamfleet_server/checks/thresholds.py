"""Owns the thresholds of the checks: the table `[health]` of the server's settings. HEALTH.md has them with what they
mean. 0 switches a level off."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Limit = Annotated[int, Field(ge=0, le=2**53)]
Permille = Annotated[int, Field(ge=0, le=1000)]


class Thresholds(BaseModel):
    """From where on something is degraded, from where on failing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    queue_degraded: Limit = Field(default=10_000, description="messages in one queue")
    queue_failing: Limit = Field(default=100_000, description="messages in one queue")
    atoms_degraded: Permille = Field(default=700, description="permille of the limit; atoms are never freed")
    atoms_failing: Permille = Field(default=900, description="permille of the limit; at 1000 the VM ends")
    processes_degraded: Permille = Field(default=700, description="permille of the limit")
    processes_failing: Permille = Field(default=900, description="permille of the limit")
    ports_degraded: Permille = Field(default=700, description="permille of the limit")
    ports_failing: Permille = Field(default=900, description="permille of the limit")
    ets_degraded: Permille = Field(default=700, description="permille of the limit of ETS tables")
    ets_failing: Permille = Field(default=900, description="permille of the limit of ETS tables")
    memory_degraded: Permille = Field(default=600, description="the VM's memory, permille of the machine's")
    memory_failing: Permille = Field(default=850, description="the VM's memory, permille of the machine's")
    binaries_degraded: Limit = Field(default=128 << 20, description="bytes of binaries")
    binaries_failing: Limit = Field(default=0, description="bytes of binaries")
    run_queue_degraded: Limit = Field(default=100, description="processes that are ready and wait for a scheduler")
    run_queue_failing: Limit = Field(default=0, description="processes that are ready and wait for a scheduler")
    restarts_degraded: Limit = Field(default=5, description="children that supervisors start again, in a minute")
    restarts_failing: Limit = Field(default=60, description="children that supervisors start again, in a minute")
    host_memory_degraded: Permille = Field(default=100, description="less available memory than that, in permille")
    host_memory_failing: Permille = Field(default=30, description="less available memory than that, in permille")
    disk_degraded: Permille = Field(default=100, description="less free space than that, in permille")
    disk_failing: Permille = Field(default=20, description="less free space than that, in permille")
    inodes_degraded: Permille = Field(default=100, description="fewer free inodes than that, in permille")
    inodes_failing: Permille = Field(default=20, description="fewer free inodes than that, in permille")
    wear_degraded: Limit = Field(default=80, description="percent of the flash's life that are used")
    wear_failing: Limit = Field(default=100, description="percent of the flash's life that are used")
    temperature_degraded: Limit = Field(default=80_000, description="thousandths of a degree Celsius")
    temperature_failing: Limit = Field(default=95_000, description="thousandths of a degree Celsius")
    clock_degraded: Limit = Field(default=60, description="seconds that the device's clock is wrong by")
    clock_failing: Limit = Field(default=0, description="seconds that the device's clock is wrong by")
    falls_degraded: Limit = Field(default=3, description="ends of the release that nobody asked for, within an hour")
    falls_failing: Limit = Field(default=6, description="ends of the release that nobody asked for, within an hour")


DEFAULTS = Thresholds()
