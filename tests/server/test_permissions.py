"""Who may do what: every route that is served refuses the role below the one it needs, and whoever has no token."""

import re
from collections.abc import Iterator
from pathlib import Path

import beamfleet_server
import pytest
import requests
from beamfleet_server.api.permissions import NEEDED, ROLES, allows, check
from beamfleet_server.errors import ServerError
from beamfleet_server.store.operators import Operator

from tests.server.conftest import Centre

PAGE = Path(beamfleet_server.__file__).parents[1] / "API.md"
PLACES = {"role": "root", "session": "999999", "rollout": "999999", "approval": "999999", "webhook": "999999"}


def operations(centre: Centre) -> Iterator[tuple[str, str, str]]:
    """(method, path with values in its places, role) of every operation that is served."""
    description = centre.server.api("GET", "/openapi.json", token="").json()
    for path, methods in description["paths"].items():
        filled = re.sub(r"{(\w+)}", lambda place: PLACES.get(place[1], "nobody"), path.removeprefix("/api/v1"))
        for method, operation in methods.items():
            yield method.upper(), filled, operation["x-beamfleet-role"]


def token_of(centre: Centre, role: str, *scopes: str) -> str:
    name = f"{role}-{len(centre.server.get('/operators')['items'])}"
    made = centre.server.post("/operators", {"name": name, "role": role, "scopes": list(scopes)})
    return str(made["token"])


def code(answer: requests.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def test_every_route_refuses_the_next_lower_role_and_whoever_has_no_token(centre: Centre) -> None:
    tokens = {role: token_of(centre, role) for role in ROLES}
    seen = set()
    for method, path, role in operations(centre):
        lower = ROLES.index(role) - 1
        if lower >= 0:
            refused = centre.server.api(method, path, token=tokens[ROLES[lower]])
            assert code(refused) == (403, "auth.forbidden"), f"{method} {path}"
        url = f"{centre.server.facts['operators']}/api/v1{path}"
        bare = requests.request(method, url, verify=str(centre.server.ca), timeout=30)
        assert code(bare) == (401, "auth.required"), f"{method} {path}"
        seen.add(role)
    assert seen == set(ROLES)


def test_every_route_admits_the_role_that_it_needs(centre: Centre) -> None:
    tokens = {role: token_of(centre, role) for role in ROLES}
    for method, path, role in operations(centre):
        with centre.server.api(method, path, token=tokens[role], stream=True) as answer:  # one of them has no end
            told = answer.json().get("code", "") if answer.status_code >= 400 else ""
        assert not told.startswith("auth."), f"{method} {path}: {told}"


def test_a_refusal_comes_before_anything_of_the_body_is_read(centre: Centre) -> None:
    viewer = token_of(centre, "viewer")
    for token, expected in ((viewer, (403, "auth.forbidden")), ("wrong", (401, "auth.required"))):
        assert code(centre.server.api("POST", "/rollouts", token=token, data=b"{ not json")) == expected


def test_root_and_targets_need_an_admin_where_a_product_needs_a_publisher(centre: Centre) -> None:
    publisher = token_of(centre, "publisher")
    for role in ("root", "targets"):
        refused = centre.server.api("POST", "/metadata", token=publisher, json={role: "AAAA"})
        assert code(refused) == (403, "auth.forbidden")
    refused = centre.server.api("POST", "/metadata", token=publisher, json={"products": {"sensor-gateway": "AAAA"}})
    assert code(refused) == (422, "trust.malformed")


def test_a_token_with_scopes_does_nothing_else_of_its_role(centre: Centre) -> None:
    token = token_of(centre, "publisher", "bundles.upload", "server.whoami")
    assert centre.server.api("GET", "/whoami", token=token).json()["scopes"] == ["bundles.upload", "server.whoami"]
    assert code(centre.server.api("GET", "/devices", token=token)) == (403, "auth.scope")
    assert code(centre.server.api("POST", "/bundles", token=token, data=b"x"))[0] == 422


@pytest.mark.parametrize("scopes", [["everything"], ["operators.create"]])
def test_a_scope_that_is_none_of_the_role_is_refused(centre: Centre, scopes: list[str]) -> None:
    body = {"name": "scoped", "role": "viewer", "scopes": scopes}
    assert code(centre.server.api("POST", "/operators", json=body)) == (422, "request.schema")


def test_a_revoked_operator_is_nobody_at_once_and_the_last_admin_stays(centre: Centre) -> None:
    made = centre.server.post("/operators", {"name": "leaver", "role": "admin"})
    assert code(centre.server.api("POST", "/operators", json={"name": "leaver", "role": "viewer"})) == (
        409,
        "operator.exists",
    )
    assert centre.server.api("GET", "/whoami", token=made["token"]).json()["role"] == "admin"
    assert centre.server.api("DELETE", "/operators/leaver").status_code == 200
    assert code(centre.server.api("GET", "/whoami", token=made["token"])) == (401, "auth.required")
    assert code(centre.server.api("DELETE", "/operators/leaver")) == (404, "operator.unknown")
    for each in centre.server.get("/operators")["items"]:
        if each["role"] == "admin" and each["name"] != "admin":
            assert centre.server.api("DELETE", f"/operators/{each['name']}").status_code == 200
    assert code(centre.server.api("DELETE", "/operators/admin")) == (409, "operator.last_admin")


def test_the_table_has_what_is_served_and_the_page_has_the_table(centre: Centre) -> None:
    description = centre.server.api("GET", "/openapi.json", token="").json()
    served = {
        operation["operationId"]: (f"{method.upper()} {path.removeprefix('/api/v1')}", operation["x-beamfleet-role"])
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    }
    assert served.keys() == NEEDED.keys() - {"metadata.upload_root"}
    on_page = dict(re.findall(r"^\| `([A-Z]+ \S+)` \| (\w+) \|", PAGE.read_text(), re.MULTILINE))
    assert on_page == dict(served.values())


def test_roles_are_steps_and_a_role_that_is_none_may_do_nothing() -> None:
    for operation, needed in NEEDED.items():
        assert [allows(role, operation) for role in ROLES] == [
            ROLES.index(role) >= ROLES.index(needed) for role in ROLES
        ]
        assert not allows("root", operation)
    with pytest.raises(ServerError) as caught:
        check(Operator("x", "", None), "server.health")
    assert caught.value.code == "auth.forbidden"
