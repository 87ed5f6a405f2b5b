"""The operators' API against its own description: schemathesis sends what the schema allows and what it does not; no
answer may be a mistake of the server, undocumented, or of another shape or type than the description says.

Bounded by examples an operation; the seed is printed. `SCHEMA_SEED` and `SCHEMA_EXAMPLES` in the environment choose
others."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.conftest import PRODUCT, Centre, open_centre
from tests.support.mqtt_device import committed
from tests.support.server import alive, running_server

pytestmark = pytest.mark.suite(name="trust")

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "ignored_auth",
)
EXAMPLES = int(os.environ.get("SCHEMA_EXAMPLES", "25"))
LONGEST_S = 900
NEW_AUTHORITY = "authorities.create"
ENDLESS = ("events.stream", "logs.stream")
"""They answer for as long as something may come, the log of a device here for half a minute."""
REVOKING = "operators.revoke"
"""Asked last: it ends whoever asks."""
CONFIGURATION = """
[parameters]
"query.wait_s" = 0
"""


@pytest.fixture(scope="module")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Centre]:
    """A server with something of everything: devices, a release, a rollout, events, operators."""
    work = tmp_path_factory.mktemp("schema")
    rates = {"requests_per_operator_s": 10_000, "requests_per_address_s": 10_000}
    with running_server(work / "server", **rates) as server:
        centre = open_centre(work, server)
        manifest = centre.author.publish(PRODUCT, "1.0.0")["manifest"]
        device = centre.device("gw-1", labels={"site": "berlin"})
        device.acknowledged(device.report(**committed(manifest)))
        device.acknowledged(device.event("restart", "crash"))
        server.post("/rollouts", {"product": PRODUCT, "version": "1.0.0", "all": True})
        yield centre
        device.close()


@pytest.mark.timeout(LONGEST_S + 60)
def test_no_answer_is_a_mistake_or_undocumented(centre: Centre, tmp_path: Path) -> None:
    server = centre.server
    token = server.post("/operators", {"name": "schema.tester", "role": "admin"})["token"]
    apart = [word for name in (REVOKING, NEW_AUTHORITY, *ENDLESS) for word in ("--exclude-operation-id", name)]
    examine(centre, tmp_path, token, EXAMPLES, *apart)
    assert server.api("GET", "/whoami", token=token).status_code == 200, "all of it was asked by somebody known"
    done = {
        entry["action"] for entry in server.get("/audit?newest=true&limit=1000")["items"] if entry["outcome"] == "ok"
    }
    assert len(done) > 5, "and not all of it was refused"
    examine(centre, tmp_path, token, 5, "--include-operation-id", REVOKING)
    assert "Traceback" not in server.log.read_text()
    assert alive(server.pid)


@pytest.mark.timeout(LONGEST_S + 60)
def test_authorities_are_made_as_described(tmp_path: Path) -> None:
    """Apart, without a device: each of them starts the broker again."""
    with running_server(tmp_path / "server", requests_per_operator_s=10_000) as server:
        centre = open_centre(tmp_path, server)
        token = server.post("/operators", {"name": "schema.tester", "role": "admin"})["token"]
        examine(centre, tmp_path, token, 5, "--include-operation-id", NEW_AUTHORITY)
        assert len(server.get("/authorities")["items"]) > 1
        assert "Traceback" not in server.log.read_text()


def examine(centre: Centre, folder: Path, token: str, examples: int, *which: str) -> None:
    """Run schemathesis on some operations; it fails with what it found, and with the seed."""
    seed = os.environ.get("SCHEMA_SEED") or str(secrets.randbelow(2**32))
    print(f"schemathesis seed {seed}")
    (folder / "schemathesis.toml").write_text(CONFIGURATION)
    command = [
        Path(sys.executable).parent / "schemathesis",
        *("--config-file", folder / "schemathesis.toml", "--no-color"),
        *("run", f"{centre.server.facts['operators']}/api/v1/openapi.json", *which),
        *("--tls-verify", centre.server.ca),
        *("--header", f"Authorization: Bearer {token}"),
        *("--checks", ",".join(CHECKS)),
        *("--max-examples", str(examples)),
        *("--seed", seed),
        *("--phases", "examples,coverage,fuzzing"),
        *("--suppress-health-check", "all"),
        *("--continue-on-failure", "--warnings", "off"),
    ]
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, capture_output=True, text=True, timeout=LONGEST_S
    )
    assert done.returncode == 0, f"seed {seed}\n{done.stdout[-20_000:]}\n{done.stderr[-2000:]}"
