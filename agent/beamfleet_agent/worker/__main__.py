"""Runs one job for the agent and ends: `python -m beamfleet_agent.worker AGENT_PID`. job.py has the line protocol.

It dies with its agent (PDEATHSIG), under limits, and never writes where another worker writes (a lock on staging/).
Whatever happens, the last line on standard output says how it ended, and the exit code agrees; a failure is in the log
of whoever started it.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

import structlog
from beamfleet_bundles.errors import BeamfleetError

from beamfleet_agent.errors import AgentError
from beamfleet_agent.worker import diagnose, enrol, fetch, offline, renew
from beamfleet_agent.worker.job import Job, patience
from beamfleet_agent.worker.rescue import rescued
from beamfleet_agent.worker.transport import LaterError

JOBS = {
    "enrol": enrol.enrol,
    "renew": renew.renew,
    "poll": rescued(fetch.poll),
    "fetch": rescued(fetch.fetch),
    "stage": offline.stage,
    "verify": fetch.verify,
    "clean": fetch.clean,
    "diagnose": diagnose.diagnose,
}
ADDRESS_SPACE = 768 << 20
OPEN_FILES = 256
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """0 when the job was done, 1 when it failed."""
    confine(int(sys.argv[1]))
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level,
                    structlog.processors.TimeStamper("iso", utc=True), structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )  # fmt: skip
    words = json.loads(sys.stdin.readline())
    structlog.contextvars.bind_contextvars(job=words.get("job"), worker=os.getpid())
    job = None
    try:
        job = Job(words)
        structlog.contextvars.bind_contextvars(device=job.settings.device)
        result = JOBS[job.name](job)
    except BeamfleetError as error:
        refusal = error
    except OSError as error:
        refusal = AgentError("worker.io", f"{error.strerror}: {error.filename}", "look at the disk and its rights")
        if isinstance(error, FileNotFoundError) and error.errno is None:  # a 404, see transport
            refusal = AgentError(
                "worker.not_found", f"the server has no {error}", "is its address in agent.toml right?"
            )
    except MemoryError:
        refusal = AgentError("worker.memory", "the job needs more memory than the worker may use")
    else:
        structlog.get_logger().info("job done")
        job.tell(result=result)
        return 0
    told: dict[str, Any] = {"code": refusal.code, "message": refusal.message, "hint": refusal.hint}
    if isinstance(refusal, LaterError):
        told["after_s"] = refusal.after_s
    tries = patience(str(words.get("job")), refusal.code)
    sys.stdout.write(json.dumps({"error": {**told, "patience": tries}}) + "\n")
    sys.stdout.flush()
    return 1


def confine(agent: int) -> None:
    """Die with the agent; no core dumps, bounded memory and files."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != agent:  # it went before we asked to be told
        os._exit(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for limit, most in ((resource.RLIMIT_AS, ADDRESS_SPACE), (resource.RLIMIT_NOFILE, OPEN_FILES)):
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    sys.exit(main())
