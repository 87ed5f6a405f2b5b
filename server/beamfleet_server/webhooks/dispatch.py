"""Owns the sending of what is due: one lane for each webhook that is enabled, with one request at a time.

A lane sends in the order of events. What is not taken is tried again later, with twice the pause each time, and the
lane rests for a moment; then it goes on with what is due, so one message that a receiver cannot take does not hold the
others up for ever. A receiver that takes something again after a while of failures gets what waits at once. A slow
receiver keeps its own lane only."""

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from beamfleet_server.clock import Clock
from beamfleet_server.errors import ServerError
from beamfleet_server.feed import Feed
from beamfleet_server.store import Store
from beamfleet_server.store.deliveries import Delivery, Due, Message, Outcome
from beamfleet_server.store.events import Event
from beamfleet_server.store.rollouts import RolloutFacts
from beamfleet_server.store.webhooks import Webhook
from beamfleet_server.webhooks import payload
from beamfleet_server.webhooks.addresses import parsed
from beamfleet_server.webhooks.sending import Answer, Sender
from beamfleet_server.webhooks.signing import Secrets, signature

BATCH = 20
LONGEST_REST_S = 300
OUTAGE = 3
"""After so many failures in a row the receiver was away, and is well again with the first success."""
GONE = 410
PRUNE_S = 3600.0
TROUBLE_S = 5.0
"""After a failure of our own, such as a database that refuses."""

Post = Callable[[Webhook, str, str], Awaitable[Answer]]
"""Sends a message (webhook, id, body) and never raises for what a receiver does."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a receiver is waited for, in seconds: the first pause, the longest one, for how long one delivery is
    tried, how long a webhook may take nothing until it is disabled, and how long the log is kept."""

    first_s: float = 5
    longest_s: float = 3600
    give_up_s: int = 86_400
    disable_s: int = 3 * 86_400
    log_s: int = 30 * 86_400

    def pause(self, tries: int, draw: float) -> float:
        """Until the next try after so many; `draw`, 0 to 1, spreads it from 3/4 to 5/4."""
        return min(self.first_s * 2.0 ** min(tries - 1, 30), self.longest_s) * (0.75 + draw / 2)


class Dispatch:
    """Sends to all webhooks."""

    def __init__(
        self,
        store: Store,
        feed: Feed,
        sender: Sender,
        secrets_: Secrets,
        clock: Clock,
        patience: Patience,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._feed = feed
        self._sender = sender
        self._secrets = secrets_
        self._clock = clock
        self._patience = patience
        self._draw = draw
        self._changed = True
        self._lanes: dict[int, tuple[Lane, asyncio.Task[None]]] = {}

    def wake(self) -> None:
        """Webhooks were changed, or deliveries asked for again."""
        self._changed = True
        self._feed.bell.ring()

    async def run(self) -> None:
        """Until cancelled: keep a lane for each webhook, and wake those for which there is news."""
        pruning = asyncio.create_task(self._prune(), name="webhook log")
        try:
            while True:
                ring = self._feed.bell.next
                if self._changed:
                    await self._refresh()
                for lane, _ in self._lanes.values():
                    lane.hear()
                if not self._changed:
                    await ring.wait()
        finally:
            tasks = [pruning, *(task for _, task in self._lanes.values())]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def test(self, webhook: int) -> Delivery:
        """Send a message about nothing, once, and keep what came of it. Error `webhook.unknown`."""
        hook = await asyncio.to_thread(self._store.webhooks.find, webhook)
        message = payload.test_of(webhook, secrets.token_hex(16), self._clock())
        answer = await self.post(hook, message.id, message.body)
        outcome = Outcome(answer.status, answer.error)
        kept = await asyncio.to_thread(self._store.deliveries.add, webhook, message, outcome, self._clock())
        return (await asyncio.to_thread(self._store.deliveries.find, webhook, kept))[0]

    async def post(self, hook: Webhook, message: str, body: str) -> Answer:
        """One signed request."""
        now, data = self._clock(), body.encode()
        salts = [hook.salt] + ([hook.old_salt] if hook.old_salt and now < hook.old_until else [])
        headers = {
            "webhook-id": message,
            "webhook-timestamp": str(now),
            "webhook-signature": signature([self._secrets.of(salt) for salt in salts], message, now, data),
        }
        return await self._sender.post(parsed(hook.url), headers, data)

    async def _refresh(self) -> None:
        self._changed = False
        try:
            hooks = {hook.id: hook for hook in await asyncio.to_thread(self._store.webhooks.all) if hook.enabled}
        except ServerError as error:
            _log.error("webhooks cannot be read", code=error.code, detail=error.message)
            self._changed = True
            await asyncio.sleep(TROUBLE_S)
            return
        for number in self._lanes.keys() - hooks.keys():
            self._lanes.pop(number)[1].cancel()
        for number, hook in hooks.items():
            if number in self._lanes:
                self._lanes[number][0].use(hook)
            else:
                lane = Lane(hook, self._store, self._feed, self.post, self._clock, self._patience, self._draw)
                self._lanes[number] = (lane, asyncio.create_task(lane.run(), name=f"webhook {number}"))

    async def _prune(self) -> None:
        while True:
            before = self._clock() - self._patience.log_s
            try:
                while await asyncio.to_thread(self._store.deliveries.prune, before, before):
                    pass
            except ServerError as error:
                _log.error("the log of webhooks cannot be pruned", code=error.code, detail=error.message)
            await asyncio.sleep(PRUNE_S)


class Lane:
    """The way to one receiver."""

    def __init__(
        self,
        hook: Webhook,
        store: Store,
        feed: Feed,
        post: Post,
        clock: Clock,
        patience: Patience,
        draw: Callable[[], float],
    ) -> None:
        self._hook = hook
        self._store = store
        self._feed = feed
        self._post = post
        self._clock = clock
        self._patience = patience
        self._draw = draw
        self._seen = hook.cursor
        self._news = asyncio.Event()
        self._asked = asyncio.Event()
        self._failures = 0

    def use(self, hook: Webhook) -> None:
        """Somebody changed the webhook, or asked for something: whoever rests goes on."""
        self._hook = hook
        self._asked.set()
        self._news.set()

    def hear(self) -> None:
        """There may be new events: wake up for what is wanted."""
        if self._news.is_set():
            return
        new = self._feed.after(self._seen)
        if new is None or any(self._hook.wanted.takes(event) for event in new):
            self._news.set()
        elif new:
            self._seen = new[-1].id

    async def run(self) -> None:
        """Until cancelled: send what is due."""
        while True:
            self._news.clear()
            try:
                pause_s = await self._work()
            except ServerError as error:
                if error.code != "webhook.unknown":  # else it was deleted, and this lane is about to end
                    _log.error("a webhook waits", webhook=self._hook.id, code=error.code, detail=error.message)
                pause_s = TROUBLE_S
            except Exception:  # noqa: BLE001 (the top of a loop: it logs, and goes on)
                _log.exception("a webhook could not be worked on", webhook=self._hook.id)
                pause_s = TROUBLE_S
            if pause_s != 0:
                await _wait(self._news, pause_s)

    async def _work(self) -> float | None:
        """Send a few; how long there is nothing to do then, None for until something happens."""
        number, now = self._hook.id, self._clock()
        composing = _Composing(self._store)
        deliveries = self._store.deliveries
        self._seen = await asyncio.to_thread(deliveries.fill, number, self._seen, composing, now)
        due = await asyncio.to_thread(deliveries.due, number, now, BATCH)
        for each in due:
            if not await self._deliver(each):
                await self._rest()
                break
        if due:
            return 0
        next_try = await asyncio.to_thread(deliveries.next_try, number)
        return None if next_try is None else max(0.05, next_try - self._clock())

    async def _deliver(self, due: Due) -> bool:
        """Send one and note what came of it; whether it was taken."""
        hook = self._hook
        answer = await self._post(hook, due.message, due.body)
        now, deliveries = self._clock(), self._store.deliveries
        if answer.taken:
            hasten, self._failures = self._failures >= OUTAGE, 0
            await asyncio.to_thread(deliveries.delivered, hook.id, due.id, answer.status, now, hasten=hasten)
            return True
        self._failures += 1
        pause_s = max(self._patience.pause(due.tries + 1, self._draw()), answer.retry_after_s)
        over = now - (due.began or now) >= self._patience.give_up_s
        _log.info(
            "a webhook was not taken",
            webhook=hook.id,
            to=parsed(hook.url).origin,
            message=due.message,
            status=answer.status,
            detail=answer.error,
            tries=due.tries + 1,
            given_up=over,
        )
        await asyncio.to_thread(
            deliveries.not_delivered,
            hook.id,
            due.id,
            Outcome(answer.status, answer.error),
            now,
            next_try=None if over else now + round(max(1.0, pause_s)),
            failing_limit=now - self._patience.disable_s,
            gone=answer.status == GONE,
        )
        return False

    async def _rest(self) -> None:
        """Leave the receiver alone, unless a person asks."""
        self._asked.clear()
        await _wait(self._asked, min(self._patience.pause(self._failures, self._draw()), LONGEST_REST_S))


class _Composing:
    """Makes the messages of one batch; each rollout in it is looked at once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rollouts: dict[int, RolloutFacts | None] = {}

    def __call__(self, hook: Webhook, event: Event) -> Message:
        return payload.composed(hook.id, event, None if event.rollout is None else self._rollout(event.rollout))

    def _rollout(self, number: int) -> RolloutFacts | None:
        if number not in self._rollouts:
            try:
                self._rollouts[number] = self._store.rollouts.find(number)
            except ServerError as error:
                if error.code != "rollout.unknown":
                    raise
                self._rollouts[number] = None
        return self._rollouts[number]


async def _wait(event: asyncio.Event, longest_s: float | None) -> None:
    try:
        await asyncio.wait_for(event.wait(), longest_s)
    except TimeoutError:
        return
