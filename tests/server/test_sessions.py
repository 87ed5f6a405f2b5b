"""Web sessions: the cookie, what a change must carry, when it is over, and the page where it begins."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from beamfleet_server.store.operators import Operator

from tests.server.conftest import Centre
from tests.support.fleet_store import FleetStore
from tests.support.postgres import Place

COOKIE = "__Host-beamfleet"


class Browser:
    """Holds the cookie by hand: what a browser would send to this host."""

    def __init__(self, centre: Centre) -> None:
        self._centre = centre
        self.base = centre.server.facts["operators"]
        self.secret = ""
        self.csrf = ""

    def ask(self, method: str, path: str, **content: Any) -> requests.Response:
        headers = {"Cookie": f"{COOKIE}={self.secret}"} | content.pop("headers", {})
        return requests.request(
            method,
            self.base + path,
            headers=headers,
            verify=str(self._centre.server.ca),
            timeout=60,
            allow_redirects=False,
            **content,
        )

    def begin(self, token: str) -> requests.Response:
        answer = self.ask("POST", "/api/v1/session", headers={"Authorization": f"Bearer {token}"})
        if answer.status_code == 201:
            self.csrf = answer.json()["csrf_token"]
            self.secret = re.findall(f"{COOKIE}=([^;]+)", answer.headers["set-cookie"])[0]
        return answer


@pytest.fixture
def browser(centre: Centre) -> Browser:
    opened = Browser(centre)
    assert opened.begin(centre.server.token).status_code == 201
    return opened


def code(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_the_cookie_is_for_this_host_alone_and_no_script_sees_it(centre: Centre) -> None:
    flags = Browser(centre).begin(centre.server.token).headers["set-cookie"].split("; ")
    assert {"HttpOnly", "Secure", "SameSite=strict", "Path=/"} <= set(flags)
    assert not any(flag.startswith("Domain") for flag in flags)


def test_a_session_reads_by_its_cookie_and_changes_only_with_its_csrf_token(browser: Browser) -> None:
    assert browser.ask("GET", "/api/v1/devices").status_code == 200
    body = {"device": "csrf-1"}
    assert code(browser.ask("POST", "/api/v1/tokens", json=body)) == (403, "auth.csrf")
    for wrong in ("x", "ü", browser.secret, browser.csrf[:-1]):
        headers = {"X-CSRF-Token": wrong.encode("utf-8")}
        assert code(browser.ask("POST", "/api/v1/tokens", json=body, headers=headers)) == (403, "auth.csrf")
    assert browser.ask("POST", "/api/v1/tokens", json=body, headers={"X-CSRF-Token": browser.csrf}).status_code == 201


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_what_another_site_sends_changes_nothing_even_with_the_token(browser: Browser, headers: dict[str, str]) -> None:
    given = {"X-CSRF-Token": browser.csrf} | headers
    assert code(browser.ask("POST", "/api/v1/tokens", json={"device": "csrf-2"}, headers=given)) == (403, "auth.csrf")


def test_logging_out_ends_it_at_once(browser: Browser) -> None:
    assert browser.ask("DELETE", "/api/v1/session", headers={"X-CSRF-Token": browser.csrf}).status_code == 200
    assert code(browser.ask("GET", "/api/v1/devices")) == (401, "auth.required")


def test_sessions_are_listed_and_revoked_by_their_owner_and_by_an_admin(centre: Centre, browser: Browser) -> None:
    token = centre.server.post("/operators", {"name": "clerk", "role": "viewer"})["token"]
    clerk = Browser(centre)
    clerk.begin(token)
    ours = clerk.ask("GET", "/api/v1/sessions").json()["items"]
    assert [(each["name"], each["role"], each["current"]) for each in ours] == [("clerk", "viewer", True)]
    admins = next(each for each in browser.ask("GET", "/api/v1/sessions").json()["items"] if each["name"] == "admin")
    path = f"/api/v1/sessions/{admins['id']}"
    assert code(clerk.ask("DELETE", path, headers={"X-CSRF-Token": clerk.csrf})) == (404, "session.unknown")
    path = f"/api/v1/sessions/{ours[0]['id']}"
    assert browser.ask("DELETE", path, headers={"X-CSRF-Token": browser.csrf}).status_code == 200
    assert code(clerk.ask("GET", "/api/v1/devices")) == (401, "auth.required")


def test_a_session_has_the_role_of_its_token_and_ends_with_it(centre: Centre) -> None:
    token = centre.server.post("/operators", {"name": "temp", "role": "viewer"})["token"]
    temp = Browser(centre)
    temp.begin(token)
    refused = temp.ask("POST", "/api/v1/tokens", json={"device": "x"}, headers={"X-CSRF-Token": temp.csrf})
    assert code(refused) == (403, "auth.forbidden")
    assert centre.server.api("DELETE", "/operators/temp").status_code == 200
    assert code(temp.ask("GET", "/api/v1/devices")) == (401, "auth.required")


def test_neither_secret_nor_token_is_in_the_database(centre: Centre, browser: Browser) -> None:
    content = b"".join(path.read_bytes() for path in centre.server.data.glob("beamfleet.db*"))
    assert browser.secret.encode() not in content
    assert browser.csrf.encode() not in content
    assert centre.server.token.encode() not in content


@pytest.fixture
def fleet(tmp_path: Path, place: Place) -> Iterator[FleetStore]:
    opened = FleetStore(tmp_path, place)
    yield opened
    opened.close()


def test_a_session_ends_when_nobody_uses_it_and_at_its_end_in_any_case(fleet: FleetStore) -> None:
    sessions = fleet.store.sessions
    sessions.idle_s, sessions.life_s = 600, 1500
    sessions.begin("hash", Operator("anna", "viewer", None), "::1", "test", fleet.now)
    for _ in range(2):
        fleet.now += 590
        assert sessions.find("hash", fleet.now)
    fleet.now += 319
    assert sessions.find("hash", fleet.now), "used a moment ago"
    fleet.now += 1
    assert sessions.find("hash", fleet.now) is None, "at its end, used or not"
    sessions.begin("other", Operator("anna", "viewer", None), "::1", "test", fleet.now)
    fleet.now += 600
    assert sessions.find("other", fleet.now) is None, "nobody used it"
    assert sessions.all(fleet.now) == []


def test_a_session_does_not_outlive_the_token_that_began_it(fleet: FleetStore) -> None:
    begun = fleet.store.sessions.begin("h", Operator("a", "viewer", fleet.now + 60), "::1", "x" * 999, fleet.now)
    assert (begun.expires, len(begun.agent)) == (fleet.now + 60, 120)


def test_one_logs_in_and_out_on_a_page_without_a_script(centre: Centre) -> None:
    browser = Browser(centre)
    assert browser.ask("GET", "/").headers["location"] == "/login"
    page = browser.ask("GET", "/login")
    assert (page.status_code, "<script" in page.text, 'action="/login"' in page.text) == (200, False, True)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert code(browser.ask("POST", "/login", data={"token": "wrong"})) == (401, "auth.required")
    evil = {"Origin": "https://evil.example"}
    assert code(browser.ask("POST", "/login", data={"token": centre.server.token}, headers=evil)) == (403, "auth.csrf")
    begun = browser.ask("POST", "/login", data={"token": centre.server.token}, headers={"User-Agent": "<b>&"})
    assert (begun.status_code, begun.headers["location"]) == (303, "/")
    browser.secret = re.findall(f"{COOKIE}=([^;]+)", begun.headers["set-cookie"])[0]
    home = browser.ask("GET", "/")
    assert "admin" in home.text
    assert "&lt;b&gt;&amp;" in home.text
    assert centre.server.token not in home.text
    (csrf,) = re.findall('name="csrf_token" value="([0-9a-f]{64})"', home.text)
    assert code(browser.ask("POST", "/logout", data={})) == (403, "auth.csrf")
    assert code(browser.ask("POST", "/logout", data="&".join(["a=b"] * 99))) == (400, "request.malformed")
    assert code(browser.ask("POST", "/logout", data="x" * 9999)) == (413, "request.too_large")
    assert browser.ask("POST", "/logout", data={"csrf_token": csrf}).status_code == 303
    assert browser.ask("GET", "/").headers["location"] == "/login"
    kept = [
        each["action"] for each in centre.server.get("/audit?newest=true&limit=20")["items"] if each["outcome"] == "ok"
    ]
    assert {"pages.login", "pages.logout"} <= set(kept)
