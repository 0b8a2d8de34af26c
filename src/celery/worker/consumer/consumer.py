"""The worker's loop: claim, admit, start, collect, settle, on one thread.

It waits on the descriptors of broker and pool and on a pipe of its own; nothing calls back into it.  Pure functions in
`decisions` say what is done with a message, `prefetch` how much is held; `ledger` commits results and settlements.

Losing the broker is a state, not an error: running tasks run on, their outcomes wait here, and every 0.1 to 2 seconds
the loop tries to settle them again.  Nothing that was claimed is forgotten.
"""

from __future__ import annotations

import itertools
import logging
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from operator import add
from typing import TYPE_CHECKING

from celery import signals
from celery.brokers.base import NOTHING as NO_NEEDS
from celery.brokers.base import Broker, Verdict
from celery.concurrency.base import Pool
from celery.exceptions import BackendError, BrokerError, DecodeError
from celery.utils.clock import SYSTEM, Clock
from celery.utils.functional import noop
from celery.utils.log import get_logger
from celery.wire.message import Delivery, Outcome, Settlement
from celery.wire.protocol import peek
from celery.worker import state
from celery.worker.aftermath import NOTHING, Aftermath, Effects
from celery.worker.banner import masked
from celery.worker.calls import Calls
from celery.worker.claimed import Claimed as Request
from celery.worker.claims import Claims
from celery.worker.consumer.surface import Surface
from celery.worker.consumer.words import *  # noqa: F403 - the public names
from celery.worker.decisions import RUN, Dead, Delay, Drop, Facts, Lost, Stage, admit, ends_for_good, settle
from celery.worker.endings import Endings, some
from celery.worker.errands import Errands
from celery.worker.facts import FactsTable
from celery.worker.ledger import Ledger
from celery.worker.limiter import Limiter
from celery.worker.line import Line
from celery.worker.looptimer import LoopTimer
from celery.worker.outage import Outage
from celery.worker.prefetch import PATIENCE, Prefetch
from celery.worker.qos import QoS
from celery.worker.stamps import concern
from celery.worker.strategies import Strategies
from celery.worker.vigil import Vigil

if TYPE_CHECKING:
    from celery.app.base import Celery

logger = get_logger("celery.worker.consumer")

LOOK_AGAIN = 5.0
"""Seconds after which an idle loop asks the broker although nothing rang: a bell that was missed costs this much."""
LAST_WORDS = 5.0
"""Seconds for which a worker that is leaving tries to settle what it has."""


class Consumer(Surface):
    """Runs the tasks of some queues in a pool until it is told to stop. Its methods belong to the thread of `run`."""

    def __init__(
        self,
        app: Celery,
        pool: Pool,
        queues: Sequence[str],
        *,
        hostname: str,
        facts: FactsTable,
        prefetch: Prefetch,
        broker: Broker | None = None,
        clock: Clock = SYSTEM,
        cancel_on_loss: bool = False,
        weights: Mapping[str, int] | None = None,
        timer: LoopTimer | None = None,
    ) -> None:
        self.app = app
        self.pool = pool
        self.hostname = hostname
        self.facts = facts
        self.prefetch = prefetch
        self.qos = QoS(prefetch, pool)
        self.cancel_on_loss = cancel_on_loss
        self.clock = clock
        self.broker = broker if broker is not None else app.broker_for_read()
        self.ledger = Ledger(self.broker, app.store)
        self.aftermath = Aftermath(app, hostname, clock, sender=self)
        self.stage: Stage = "run"
        self.limiter = Limiter(self.broker.can, facts, app.tasks, clock)
        options = {"weights": weights} if weights else {}
        self.source = Claims(
            queues, lambda names: self.broker.consumer(names, name=hostname, store=self.ledger.joined, **options)
        )
        self.held = Line()
        """Claimed, admitted, not started."""
        self.inside: dict[int, Request] = {}
        """Handed to the pool."""
        self.endings = Endings(self.source, self.ledger, self.aftermath, facts, hostname)
        self._numbers = itertools.count(1)
        self.calls = Calls()
        self.timer = LoopTimer() if timer is None else timer
        self.timer.wake = partial(self.call_soon, noop)
        self.errands = Errands(pool, self._numbers, self.call_soon)
        self.strategies = Strategies(self)
        self._vigil = Vigil(pool.poller(), self.calls.inbox)
        self._bell = -1
        self._ready = True
        self._due_at: float | None = None
        self._look_at = 0.0
        self._aged_at = 0.0
        self._outage = Outage(clock)
        self._give_up_at: float | None = None
        state.reserved_requests.source = self.requests
        state.active_requests.source = lambda: list(self.inside.values())

    # -- the loop --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until the stage is past `run` and what was running has ended and is settled."""
        self.calls.thread = threading.get_ident()
        while True:
            self.turn()
            if self.finished():
                return
            self.wait()

    def turn(self) -> None:
        """One round: what the loop was asked to do, what has ended, what can begin."""
        self._collect()
        try:
            self._perform_calls()
            if not self._outage.is_waited_out():
                return
            if self.stage == "run":
                self._advance()
                if self._claim():
                    self._advance()
                self._give_back_late()
            else:
                self._commit()
        except (BrokerError, BackendError) as error:
            self._lose(error)
        else:
            if self._outage.end():
                self._ready = True
                logger.info("Reached %s again: nothing was lost", masked(self.broker.url))

    def stop(self) -> None:
        """Warm: claim no more, give back what has not started, finish what runs. Loop thread."""
        if self.stage == "run":
            self.stage = "warm"
            self._withdraw()

    def terminate(self) -> None:
        """Cold: kill what runs; it is requeued or recorded as lost. Loop thread."""
        self.stop()
        self.stage = "cold"
        for request in self.inside.values():
            request.killed = request.killed or "shutdown"
        self._settle_all(self.pool.terminate())
        self.errands.give_up()
        for request in list(self.inside.values()):
            # The pool could not end it (a thread): its message goes the way of a dead worker's, through `close`.
            logger.warning("Task %s still runs and is left behind", request)
        self.inside.clear()
        self._give_up_at = self.clock.monotonic() + LAST_WORDS

    def close(self) -> None:
        """Leave the broker: what is not settled goes back to its queue. After `run` has returned."""
        try:
            self.source.close()
        except BrokerError as error:
            logger.warning("Could not take leave of the broker; its lease will end by itself: %s", error)
        self.calls.close()

    def on_lease_lost(self) -> None:
        """Others have what this worker had claimed: forget what has not started, begin anew. Loop thread."""
        if self.source.renew():
            # A claim since then began anew already; what was held before it is told so when it is to be started.
            return
        logger.error(
            "The lease of this worker was lost: it was not renewed for %s s, or the broker was emptied. %s claimed "
            "tasks are dropped here; others run them. Results of the %s running ones will be refused.",
            self.broker.lease,
            len(self.held),
            len(self.inside),
        )
        self.held.clear()
        self.strategies.forget()
        if self.cancel_on_loss:
            for request in self.inside.values():
                if request.facts.acks_late and self.pool.kill(request.tag, signal.SIGKILL):
                    request.killed = "shutdown"
        self.source.renounce()
        self._ready = True

    def add_queue(self, name: str) -> None:
        """Also consume from *name*. Loop thread."""
        if name not in self.source.queues:
            self._change_queues([*self.source.queues, name])

    def cancel_queue(self, name: str) -> None:
        """Consume no longer from *name*. Loop thread."""
        if name in self.source.queues:
            self._change_queues([queue for queue in self.source.queues if queue != name])

    def _change_queues(self, queues: list[str]) -> None:
        self._release_held()
        kept = [*self.inside.values(), *self.strategies.lent.values()]
        running = [request.delivery for request in kept]
        self.source.change(queues, [*running, *(settlement.delivery for settlement in self.endings.waiting)])
        self._ready = True

    # -- steps -----------------------------------------------------------------------------------------------------

    def _perform_calls(self) -> None:
        self.calls.perform()
        if self.timer:
            self.timer.tick()
        if state.should_terminate is not None and state.should_terminate is not False:
            if self.stage != "cold":
                self.terminate()
        elif state.should_stop is not None and state.should_stop is not False:
            self.stop()

    def _collect(self) -> None:
        """What has ended in the pool becomes settlements."""
        outcomes = self.pool.poll()
        if outcomes:
            self._settle_all(outcomes)
        if self.errands.waiting:
            self.errands.begin()

    def _settle_all(self, outcomes: Sequence[Outcome]) -> None:
        inside, unsettled, reports = self.inside, self.endings.waiting, self.reports
        total, succeeded = 0.0, list[tuple[Request, Outcome]]()
        if self.strategies.watched:
            outcomes = self.strategies.ended(outcomes, inside)
        for outcome in outcomes:
            request = inside.pop(outcome.tag, None)
            if request is None:
                self.errands.end(outcome)
                continue
            total += outcome.runtime
            if outcome.state == "SUCCESS":
                frees = ((request.head.unique, request.id),) if request.head.unique is not None else ()
                records, messages, arrivals = outcome.records, outcome.messages, outcome.arrivals
                unsettled.append(Settlement(request.delivery, "done", 0.0, "", records, messages, arrivals, frees))
                if reports is not None:
                    succeeded.append((request, outcome))
            else:
                self._end(request, outcome)
        if reports is not None and succeeded:
            reports.succeeded(succeeded)
        if outcomes:
            self.prefetch.record(total, len(outcomes))

    def _end(self, request: Request, outcome: Outcome) -> None:
        """Whatever is not a plain success."""
        ending = settle(
            request.facts,
            outcome,
            request.delivery,
            retries=request.head.retries,
            hard=request.limits()[0],
            killed=request.killed,
        )
        if ending.verb == "again":
            self._hand_back(request)
            return
        if self.reports is not None:
            self.reports.ended(request, outcome, ending)
        ours = self.aftermath.ended(request, ending) if ending.error is not None else NOTHING
        if outcome.internal:
            ours = self.aftermath.not_run(request, outcome)
        theirs = Effects(outcome.records, outcome.messages, outcome.arrivals) if ending.effects else NOTHING
        effects = Effects(*map(add, theirs, ours))._asdict()
        frees = request.frees if ends_for_good(outcome, ending) else ()
        ended = Settlement(request.delivery, ending.verb, 0.0, ending.reason, **effects, frees=frees)
        self.endings.waiting.append(ended)

    def _hand_back(self, request: Request) -> None:
        """The pool did not start it: first in line again, or back to the broker if this worker is leaving."""
        request.time_start = None
        self.held.appendleft(request)
        if self.stage != "run":
            self._release_held()

    def _commit(self) -> None:
        """Commit what has ended; with nothing to commit, see whether a broker that was lost is there again."""
        if self.endings.waiting:
            self.endings.commit()
        elif self._outage.lasts and not self.source.renew():
            self.on_lease_lost()

    def _room(self) -> int:
        """How many messages to claim now: none until what is held has fallen to half of what should be."""
        room = self.prefetch.target(self.pool.size) - len(self.held) - len(self.inside)
        if room <= 0 or (self.strategies.lent and self.strategies.is_full()):
            return 0
        held = len(self.held)
        return room if held <= room or held < self.pool.free() else 0

    def _claim(self) -> bool:
        """Claim and admit what there is room for; whether there was anything."""
        now, limiter = self.clock.monotonic(), self.limiter
        if not (
            self._ready
            or now >= self._look_at
            or (self._due_at is not None and now >= self._due_at)
            or now >= limiter.due_at
        ):
            return False
        room = self._room()
        if not room:
            return False
        room = max(room, limiter.boost)
        wanted = limiter.wanted(now)
        self._foresee()
        deliveries = self.source.claim(room, 0.0, wanted) if wanted else self.source.claim(room)
        self._look_at = now + LOOK_AGAIN
        self._ready = len(deliveries) == room
        # Before the broker is asked for more: if it is lost now, nobody else remembers what was claimed.
        if deliveries:
            self._receive(deliveries, now)
            self.prefetch.weigh([len(delivery.envelope) for delivery in deliveries])
        if wanted:
            limiter.claimed(wanted, full=self._ready)
        if limiter.changed or limiter.boost:
            self._sift(len(deliveries))
        if not self._ready:
            due = self.source.due_in()
            self._due_at = None if due is None else now + due
        return bool(deliveries)

    def _foresee(self, *, ended: bool = False) -> None:
        """Tell the broker what will be asked next: what follows on what has *ended*, and starts at once.

        Every step of a chain waits for the one before; each round trip between them counts.
        """
        if self.held or self.limiter.busy:
            return
        room = self._room() if ended and self.endings.has_followers() else 0
        if room or not ended:
            self.source.foresee(self.pool.free(), room)
            self._ready = self._ready or room > 0

    def _sift(self, claimed: int = 0) -> None:
        """What cannot start now because of a limit goes back to the store, where it is in nobody's way."""
        self.endings.waiting += self.limiter.sift(self.held, self.source)
        if claimed:
            boosted = self.limiter.boost
            self.limiter.note_claim(claimed)
            excess = len(self.held) + len(self.inside) - self.prefetch.target(self.pool.size)
            if boosted and excess > 0:
                self._release([self.held.pop() for _ in range(min(excess, len(self.held)))])

    def _receive(self, deliveries: Sequence[Delivery], claimed: float) -> None:
        """Claimed messages become requests that wait for the pool, or end here."""
        now = self.clock.time()
        facts_of, numbers, hostname, zone = self.facts.get, self._numbers, self.hostname, self.app.timezone
        fresh: list[Request] = []
        ids_revoked, stamped = state.revoked or (), state.revoked_stamps
        for delivery in deliveries:
            try:
                head = peek(delivery.envelope)
            except DecodeError as error:
                self.endings.waiting.append(self.aftermath.undecodable(delivery, error))
                continue
            facts = facts_of(head.task)
            revoked = head.id in ids_revoked or (bool(stamped) and concern(head.stamps, stamped))
            verdict = admit(head, delivery, facts, now, revoked=revoked, zone=zone)
            request = Request(head, delivery, facts or Facts(head.task), next(numbers), hostname, claimed)
            if verdict is RUN:
                if request.facts.own_way:
                    self.strategies.take(request)
                else:
                    fresh.append(request)
            elif isinstance(verdict, Delay):
                self.endings.waiting.append(Settlement(delivery, "requeue", max(0.0, verdict.due - now)))
            elif isinstance(verdict, Drop):
                self.endings.waiting.append(self.aftermath.dropped(request, verdict.reason))
            elif isinstance(verdict, Dead | Lost):
                self.endings.waiting.append(self.aftermath.refused(request, verdict))
        self.hold(fresh)
        if self.strategies.over:
            self.strategies.give_back()

    def hold(self, requests: Sequence[Request]) -> None:
        """Keep these until the pool has room for them."""
        self.held.extend(requests)
        free: list[Request] = []
        for request in requests:
            if request.delivery.interrupted and request.suspect:
                self.held.suspects = True
            if request.facts.limited or request.head.limit is not None:
                self.limiter.admit(request)  # it is told of when it starts: until then it may come and go
            else:
                free.append(request)
        self._tell_received(free)

    def _advance(self) -> None:
        """Commit what has ended and start what the pool takes next; in one step, where there is both."""
        if self.limiter.changed:
            self._sift()
        batch = self._next_batch() if self.held else []
        if not batch:
            self._foresee(ended=True)
            self._commit()
            return
        try:
            records = self.aftermath.started(batch)
            needs = self.limiter.needs(batch) if self.limiter.busy else NO_NEEDS
            verdicts = self.endings.commit_and_start([request.delivery for request in batch], records, needs)
        except (BrokerError, BackendError):
            self.held.extendleft(reversed(batch))
            raise
        self._submit(batch, verdicts)

    def _next_batch(self) -> list[Request]:
        """What the pool takes now of what is held."""
        free = self.pool.free()
        if self.ledger.forgetful:
            free = self.held.that_can_begin(free, self.pool.idle())
        return self.held.take(free, self.inside.values())

    def _submit(self, batch: Sequence[Request], verdicts: Sequence[Verdict]) -> None:
        """Hand to the pool what may run."""
        now = self.clock.time()
        inside, counts = self.inside, state.total_count
        jobs = []
        if self.limiter.busy:
            self._tell_received(self.limiter.started(batch, verdicts))
        for request, verdict in zip(batch, verdicts, strict=True):
            if verdict == "ok":
                request.time_start = now
                inside[request.tag] = request
                counts[request.head.task] += 1
                jobs.append(request.job())
            elif verdict == "revoked":
                self.endings.waiting.append(self.aftermath.dropped(request, "revoked"))
            elif verdict == "parked":
                self.limiter.refused(request)
        if len(jobs) < len(batch) and "lost" in verdicts:
            lost = [request for request, verdict in zip(batch, verdicts, strict=True) if verdict == "lost"]
            logger.warning("Not run, because this worker's lease on them was lost: %s", some(lost))
        state.all_total_count[0] += len(jobs)
        if jobs:
            if self.reports is not None:
                self.reports.started([request for request in batch if request.tag in inside])
            if self.ledger.forgetful:
                self.endings.let_go(request for request in batch if request.tag in inside)
            if self.strategies.watched:
                self.strategies.started(batch)
            self.pool.submit(jobs)

    def _tell_received(self, requests: Sequence[Request]) -> None:
        if logger.isEnabledFor(logging.INFO) or signals.task_received.receivers:
            for request in requests:
                logger.info("Task %s received", request)
                if signals.task_received.receivers:
                    signals.task_received.send(sender=self, request=self.strategies.request_of(request))
        if self.reports is not None:
            self.reports.received(requests)

    def _give_back_late(self) -> None:
        """What could not start within `PATIENCE` goes back, so that nobody waits behind a long task."""
        now = self.clock.monotonic()
        if now < self._aged_at or self.stage != "run":
            return
        self._aged_at = now + PATIENCE / 4
        if self._waits_in_window():
            self.prefetch.stall()
            self._withdraw()
        elif self.held and now - self.held[0].claimed > PATIENCE:
            self.prefetch.stall()
            self._release_held()

    def _waits_in_window(self) -> bool:
        """Whether a slot has had a job for longer than `PATIENCE` that it has not begun."""
        inside = self.inside
        if len(inside) <= self.pool.size or not self.pool.can.windows:
            return False
        handed_out_by = self.clock.time() - PATIENCE
        return any(
            job.started is None and job.tag in inside and (inside[job.tag].time_start or 0.0) < handed_out_by
            for job in self.pool.running()
        )

    def _withdraw(self) -> None:
        """Take back from the pool what it has not started, and give it back to the broker."""
        for tag in self.pool.withdraw():
            request = self.inside.pop(tag, None)
            if request is None:
                self.errands.take_back(tag)
            else:
                request.time_start = None
                self.held.append(request)
        self._release_held()

    def _release_held(self) -> None:
        if self.held:
            self._release(list(self.held))
            self.held.clear()

    def _release(self, requests: Sequence[Request]) -> None:
        deliveries = [request.delivery for request in requests]
        try:
            self.source.release(deliveries)
        except BrokerError as error:
            if self.stage == "run":
                raise
            # On the way out there is no second try: the lease ends, and the sweep puts them back.
            logger.warning("Could not give back %s tasks; they return when the lease ends: %s", len(deliveries), error)

    def _lose(self, error: Exception) -> None:
        if self._outage.note():
            logger.error(CONNECTION_ERROR, error)  # noqa: F405 - of `words`

    def finished(self) -> bool:
        """Whether it has been told to stop, and everything has ended and is settled."""
        if self.stage == "run":
            return False
        if self._give_up_at is not None and self.clock.monotonic() >= self._give_up_at:
            if self.endings.waiting:
                logger.error("Leaving with %s unsettled tasks: their messages return", len(self.endings.waiting))
            return True
        return not (self.inside or self.endings.waiting or self.held or self.errands)

    # -- waiting ---------------------------------------------------------------------------------------------------

    def wait(self, most: float = LOOK_AGAIN) -> None:
        """Sleep until something can be done, at most *most* seconds."""
        timeout = min(most, self._timeout())
        lull = min(timeout, self.pool.lull())
        if lull > 0.0:
            # Outcomes of tiny tasks are collected and committed together; nobody is asleep who waits for one of them.
            time.sleep(lull)
            timeout = 0.0
        self._watch()
        for descriptor in self._vigil.sleep(timeout):
            if descriptor == self.calls.inbox:
                self.calls.drain()
            elif descriptor == self._bell:
                self._ready = True

    def _timeout(self) -> float:
        """Seconds that the loop may sleep if nothing rings."""
        if self.calls:
            return 0.0
        now = self.clock.monotonic()
        until = now + LOOK_AGAIN
        if self._outage.lasts:
            until = min(until, self._outage.retry_at)
        elif self.endings.waiting or self.limiter.changed:
            return 0.0
        elif self.stage == "run":
            if self._room():
                until = now if self._ready else min(until, self._look_at, self._due_at or until, self.limiter.due_at)
            if self.held or len(self.inside) > self.pool.size:
                until = min(until, self._aged_at)
        if self._give_up_at is not None:
            until = min(until, self._give_up_at)
        if self.timer:
            until = min(until, now + (self.timer.wait() or 0.0))
        hint = self.pool.wait_hint()
        wait = max(0.0, until - now)
        return wait if hint is None else min(wait, max(0.0, hint))

    def _watch(self) -> None:
        """Watch the pool, and the broker as long as there is room for what it may have."""
        wanted, bell = set(self.pool.filenos()), -1
        if self.stage == "run" and not self._outage.lasts and not self._ready and self._room():
            bell = self.source.fileno()
            wanted.add(bell)
        self._bell = bell
        self._vigil.watch(wanted)
