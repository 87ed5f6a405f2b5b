"""Runs one job for the agent and ends: `python -m beamfleet_agent.worker AGENT_PID`. job.py has the line protocol.

It dies with its agent (PDEATHSIG), under limits, and never writes where another worker writes (a lock on staging/).
Whatever happens, the last line on standard output says how it ended, and the exit code agrees.
"""

import ctypes
import json
import os
import resource
import signal
import sys

import structlog
from beamfleet_bundles.errors import BeamfleetError

from beamfleet_agent.errors import AgentError
from beamfleet_agent.worker import enrol, fetch, offline
from beamfleet_agent.worker.job import Job, patience

JOBS = {
    "enrol": enrol.enrol,
    "poll": fetch.poll,
    "fetch": fetch.fetch,
    "stage": offline.stage,
    "verify": fetch.verify,
    "clean": fetch.clean,
}
ADDRESS_SPACE = 768 << 20
OPEN_FILES = 256
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """0 when the job was done, 1 when it failed."""
    confine(int(sys.argv[1]))
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.TimeStamper("iso", utc=True),
                    structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )  # fmt: skip
    words = json.loads(sys.stdin.readline())
    log = structlog.get_logger(job=words.get("job"), worker=os.getpid())
    job = None
    try:
        job = Job(words)
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
        log.info("job done")
        job.tell(result=result)
        return 0
    log.warning("job failed", code=refusal.code, detail=refusal.message)
    told = {"code": refusal.code, "message": refusal.message, "hint": refusal.hint}
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
