"""The outbox of webhooks: nothing is lost, nothing is twice, what waits is bounded, and the log is pruned."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from beamfleet_server.database_address import DatabaseAddress
from beamfleet_server.store import deliveries as module
from beamfleet_server.store.deliveries import Outcome
from beamfleet_server.store.events import Event, NewEvent
from beamfleet_server.store.webhooks import MOST, NewWebhook
from beamfleet_server.webhooks import payload

from tests.support.fleet_store import FleetStore
from tests.support.refusal import refusal

REFUSED = Outcome(500, "it answered 500")


class Outbox:
    """A store with a webhook."""

    def __init__(self, fleet: FleetStore) -> None:
        self.fleet, self.store = fleet, fleet.store
        self.webhooks, self.deliveries = fleet.store.webhooks, fleet.store.deliveries

    def create(self, *kinds: str, url: str = "https://hooks.example/x", causes: tuple[str, ...] = ()) -> int:
        return self.webhooks.create(NewWebhook(url, kinds, causes, "salt-1", "anna"), self.fleet.now)

    def happen(self, *kinds: str, cause: str = "") -> None:
        self.store.events.append(*(NewEvent(self.fleet.now, kind, cause) for kind in kinds))

    def fill(self, webhook: int, after: int = 0) -> int:
        return self.deliveries.fill(
            webhook, after, lambda hook, event: payload.composed(hook.id, event, None), self.fleet.now
        )

    def due(self, webhook: int) -> list[int]:
        return [each.id for each in self.deliveries.due(webhook, self.fleet.now, 1000)]

    def types(self, webhook: int, state: str | None = None) -> list[str]:
        return [each.type for each in reversed(self.deliveries.page(webhook, None, 1000, state))]

    def refuse(self, webhook: int, delivery: int, *, next_try: int | None, gone: bool = False) -> None:
        limit = self.fleet.now - 1000
        self.deliveries.not_delivered(
            webhook, delivery, REFUSED, self.fleet.now, next_try=next_try, failing_limit=limit, gone=gone
        )


@pytest.fixture
def outbox(tmp_path: Path, place: Path | DatabaseAddress) -> Iterator[Outbox]:
    fleet = FleetStore(tmp_path, place)
    yield Outbox(fleet)
    fleet.close()


def test_the_lines_that_a_crash_left_behind_are_not_sent_out() -> None:
    left = {"slogan": "boom", "status": "status 1", "log": ["the pump does not answer"]}
    event = Event(7, 1_800_000_000, "gw-1", "restart", "crash", "", None, {"starts": 3, "evidence": left})
    told = json.loads(payload.composed(1, event, None).body)["event"]
    assert told["data"] == {"starts": 3, "evidence": {"slogan": "boom", "status": "status 1"}}
    assert left["log"], "the event itself keeps them"


def test_a_webhook_gets_what_happens_after_it_was_made_and_only_what_it_wants(outbox: Outbox) -> None:
    outbox.happen("rollout")
    everything = outbox.create()
    halts = outbox.create("rollout", url="https://hooks.example/y", causes=("halted", "aborted"))
    outbox.happen("restart", "rollout")
    outbox.happen("rollout", cause="halted")
    for webhook in (everything, halts):
        outbox.fill(webhook)
    assert outbox.types(everything) == ["restart", "rollout", "rollout.halted"]
    assert outbox.types(halts) == ["rollout.halted"]


def test_filling_again_makes_nothing_twice_and_goes_on_where_it_stood(outbox: Outbox) -> None:
    webhook = outbox.create()
    outbox.happen("a", "b")
    outbox.fill(webhook)
    outbox.fill(webhook)
    outbox.happen("c")
    outbox.fill(webhook)
    assert outbox.types(webhook) == ["a", "b", "c"]


def test_a_fill_that_somebody_else_has_overtaken_adds_nothing(outbox: Outbox) -> None:
    webhook = outbox.create()
    outbox.happen("a")
    filled: list[int] = []

    def slow(_: object, __: object) -> module.Message:
        if not filled:
            filled.append(outbox.fill(webhook))
        return module.Message("msg_late", "late", "{}")

    outbox.deliveries.fill(webhook, 0, slow, outbox.fleet.now)
    assert outbox.types(webhook) == ["a"]


def test_what_waits_as_rows_is_bounded_and_the_rest_waits_behind_the_cursor(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKLOG", 3)
    webhook = outbox.create()
    outbox.happen("a", "b", "c", "d", "e")
    outbox.fill(webhook)
    outbox.fill(webhook)
    assert outbox.types(webhook, "pending") == ["a", "b", "c"]
    for delivery in outbox.due(webhook):
        outbox.deliveries.delivered(webhook, delivery, 204, outbox.fleet.now, hasten=False)
    outbox.fill(webhook)
    assert outbox.types(webhook) == ["a", "b", "c", "d", "e"]


def test_events_that_nobody_wants_cost_no_write_but_move_the_cursor_once_in_a_while(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STRIDE", 3)
    webhook = outbox.create("rollout")
    start = outbox.webhooks.find(webhook).cursor
    outbox.happen("a", "b", "c")
    seen = outbox.fill(webhook)
    assert (seen, outbox.webhooks.find(webhook).cursor) == (start + 3, start)
    outbox.happen("d")
    assert outbox.fill(webhook, seen) == start + 4
    assert outbox.webhooks.find(webhook).cursor == start + 4


def test_what_was_refused_is_due_again_at_its_time_and_has_failed_when_it_is_given_up(outbox: Outbox) -> None:
    webhook = outbox.create()
    outbox.happen("a", "b")
    outbox.fill(webhook)
    first, second = outbox.due(webhook)
    outbox.refuse(webhook, first, next_try=outbox.fleet.now + 30)
    assert outbox.due(webhook) == [second]
    assert outbox.webhooks.find(webhook).failing_since == outbox.fleet.now
    outbox.deliveries.delivered(webhook, second, 200, outbox.fleet.now, hasten=False)
    assert outbox.webhooks.find(webhook).failing_since is None
    assert outbox.deliveries.next_try(webhook) == outbox.fleet.now + 30
    outbox.fleet.now += 30
    (again,) = outbox.deliveries.due(webhook, outbox.fleet.now, 9)
    assert (again.id, again.tries, again.began) == (first, 1, outbox.fleet.now - 30)
    outbox.refuse(webhook, first, next_try=None)
    assert outbox.due(webhook) == []
    assert outbox.types(webhook, "failed") == ["a"]
    (failed,) = outbox.deliveries.page(webhook, None, 9, "failed")
    assert (failed.tries, failed.status, failed.error) == (2, 500, "it answered 500")


def test_a_receiver_that_is_well_again_gets_at_once_what_waits(outbox: Outbox) -> None:
    webhook = outbox.create()
    outbox.happen("a", "b")
    outbox.fill(webhook)
    first, second = outbox.due(webhook)
    outbox.refuse(webhook, first, next_try=outbox.fleet.now + 3000)
    outbox.deliveries.delivered(webhook, second, 200, outbox.fleet.now, hasten=True)
    assert outbox.due(webhook) == [first]


def test_a_webhook_that_fails_for_too_long_is_disabled_with_an_event_and_its_deliveries_wait(outbox: Outbox) -> None:
    webhook = outbox.create("a")
    outbox.happen("a")
    outbox.fill(webhook)
    (delivery,) = outbox.due(webhook)
    outbox.refuse(webhook, delivery, next_try=outbox.fleet.now)
    outbox.fleet.now += 999
    outbox.refuse(webhook, delivery, next_try=outbox.fleet.now)
    assert outbox.webhooks.find(webhook).enabled
    outbox.fleet.now += 1
    outbox.refuse(webhook, delivery, next_try=outbox.fleet.now)
    hook = outbox.webhooks.find(webhook)
    assert (hook.enabled, hook.reason) == (False, "failing for days: it answered 500")
    event = outbox.store.events.newest(1)[0]
    assert (event.kind, event.cause, event.data) == ("webhook", "disabled", {"webhook": webhook})
    assert outbox.due(webhook) == []
    assert outbox.deliveries.next_try(webhook) is None
    assert refusal(outbox.deliveries.redeliver, webhook, None, outbox.fleet.now) == "webhook.disabled"
    outbox.webhooks.enable(webhook, from_now=False)
    assert outbox.due(webhook) == [delivery]


def test_a_receiver_that_is_gone_disables_its_webhook_at_once(outbox: Outbox) -> None:
    webhook = outbox.create()
    outbox.happen("a")
    outbox.fill(webhook)
    outbox.refuse(webhook, outbox.due(webhook)[0], next_try=outbox.fleet.now, gone=True)
    assert not outbox.webhooks.find(webhook).enabled


def test_what_happens_while_a_webhook_is_disabled_is_sent_later_or_left_out(outbox: Outbox) -> None:
    later, never = outbox.create(), outbox.create(url="https://hooks.example/y")
    for webhook in (later, never):
        outbox.webhooks.disable(webhook, "by anna")
    outbox.happen("a")
    for webhook in (later, never):
        outbox.fill(webhook)
        assert outbox.types(webhook) == []
    outbox.webhooks.enable(later, from_now=False)
    outbox.webhooks.enable(never, from_now=True)
    outbox.webhooks.enable(later, from_now=True)  # it is enabled already: nothing is left out by that
    outbox.happen("b")
    for webhook in (later, never):
        outbox.fill(webhook)
    assert (outbox.types(later), outbox.types(never)) == (["a", "b"], ["b"])


def test_deliveries_are_sent_again_under_their_ids(outbox: Outbox) -> None:
    webhook = outbox.create()
    outbox.happen("a", "b", "c")
    outbox.fill(webhook)
    first, second, third = outbox.due(webhook)
    outbox.refuse(webhook, first, next_try=None)
    outbox.refuse(webhook, second, next_try=None)
    outbox.deliveries.delivered(webhook, third, 204, outbox.fleet.now, hasten=False)
    before = {each.id: each.message for each in outbox.deliveries.page(webhook, None, 9)}
    assert outbox.deliveries.redeliver(webhook, None, outbox.fleet.now) == 2
    assert outbox.due(webhook) == [first, second]
    assert outbox.deliveries.redeliver(webhook, [third], outbox.fleet.now) == 1
    assert {each.id: each.message for each in outbox.deliveries.due(webhook, outbox.fleet.now, 9)} == before or {
        each.id: each.message for each in outbox.deliveries.page(webhook, None, 9)
    } == before
    assert len(set(before.values())) == 3
    assert refusal(outbox.deliveries.redeliver, webhook, [first, 999], outbox.fleet.now) == "webhook.no_delivery"
    assert refusal(outbox.deliveries.redeliver, 999, None, outbox.fleet.now) == "webhook.unknown"
    assert refusal(outbox.deliveries.find, webhook, 999) == "webhook.no_delivery"


def test_what_is_known_of_a_deleted_device_is_delivered_to_nobody(outbox: Outbox) -> None:
    outbox.fleet.enrol("gw-1", "gw-2")
    webhook = outbox.create()
    outbox.fleet.online("gw-1", "gw-2")
    outbox.fill(webhook)
    assert len(outbox.due(webhook)) == 2
    outbox.store.devices.remove("gw-1", outbox.fleet.now)
    assert len(outbox.due(webhook)) == 1


def test_the_log_is_pruned_by_age_and_by_number(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    webhook = outbox.create()
    outbox.happen("a", "b", "c", "d")
    outbox.fill(webhook)
    first, second, third, fourth = outbox.due(webhook)
    outbox.deliveries.delivered(webhook, first, 204, outbox.fleet.now, hasten=False)
    outbox.refuse(webhook, second, next_try=None)
    outbox.fleet.now += 100
    outbox.deliveries.delivered(webhook, third, 204, outbox.fleet.now, hasten=False)
    now = outbox.fleet.now
    assert outbox.deliveries.prune(now - 100, now - 100) == 0
    assert outbox.deliveries.prune(now - 50, now - 150) == 1
    assert outbox.types(webhook) == ["b", "c", "d"]
    monkeypatch.setattr(module, "KEPT", 1)
    assert outbox.deliveries.prune(0, 0) == 1
    assert outbox.types(webhook) == ["c", "d"], "what waits is not counted and never pruned"
    assert outbox.due(webhook) == [fourth]


def test_a_webhook_ends_with_its_log_and_its_number_is_not_used_again(outbox: Outbox) -> None:
    webhook = outbox.create()
    outbox.happen("a")
    outbox.fill(webhook)
    assert refusal(outbox.create) == "webhook.exists"
    outbox.webhooks.delete(webhook)
    for call in (outbox.webhooks.find, outbox.webhooks.delete):
        assert refusal(call, webhook) == "webhook.unknown"
    assert refusal(outbox.deliveries.page, webhook, None, 9) == "webhook.unknown"
    assert outbox.create() > webhook


def test_there_are_only_so_many(outbox: Outbox) -> None:
    for number in range(MOST):
        outbox.create(url=f"https://hooks.example/{number}")
    assert refusal(outbox.create) == "webhook.too_many"
    assert len(outbox.webhooks.all()) == MOST


def test_a_rotation_keeps_the_secret_before_for_a_while(outbox: Outbox) -> None:
    webhook = outbox.create()
    hook = outbox.webhooks.rotate(webhook, "salt-2", outbox.fleet.now + 60)
    assert (hook.salt, hook.old_salt, hook.old_until) == ("salt-2", "salt-1", outbox.fleet.now + 60)
