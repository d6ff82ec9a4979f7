"""The edge's processing in several processes: the consumers of pvapy's streaming framework, and what joins them.

The distributor in the detector's server deals the frames out in groups; a server without one (areaDetector's) gets
pvapy's mirror in front. The collector puts what the consumers put out into one stream in the order of ids.
"""

import json
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from iocs.edge_batches import Model
from iocs.edge_consumer_merged import RemoteEngine
from iocs.edge_consumer_orders import Answer, Channels, Orders
from iocs.edge_consumer_processes import Child, Link
from iocs.edge_consumer_tools import Tools
from iocs.edge_messages import Note, Settings, StreamConfig
from iocs.edge_trial import Candidate
from iocs.edge_warmer import PARALLEL
from phasing.card import ModelCard
from phasing.compute import cores_available
from phasing.engines import EngineOptions
from phasing.engines.hardware import VISIBLE, visible_gpus
from phasing.errors import ModelError
from pvdb import Severity

log = logging.getLogger("phaseline.edge")

LOOK_S, SETTLED_S = 0.1, 1.0


@dataclass(eq=False)
class Consumer:
    """One consumer: its process, its channels, how far it is; `begun` once the collector hears this very process."""

    number: int
    child: Child
    link: Link
    answer: Answer = field(default_factory=Answer)
    begun: bool = False


class Consumers:
    """Owns the processes, gives them orders, and starts again what dies."""

    def __init__(self, config: StreamConfig, settings: Settings, note: Callable[[Note], None]) -> None:
        """Start them all; `note` tells people, from a thread."""
        edge = config.edge
        self._config, self._note = config, note
        self._channels = channels = Channels(f"{config.phase.removesuffix('Phase')}{os.getpid()}:")
        self._timeout_s = edge.model_timeout_s
        self._changed = threading.Condition()
        self._orders = Orders(0, settings)
        self._live: tuple[Candidate, ...] = ()
        self._closed = False
        self._failure = ""
        self._tools = tools = Tools(config, channels)
        self._others = [Child("the collector", tools.collector)]
        self._mirror = Child("the mirror", tools.mirror) if tools.mirrored else None
        if self._mirror is not None:
            self._others.append(self._mirror)
        self._collector_link = Link(channels.merged_control, channels.merged_status)
        self._consumers = [self._started(number) for number in range(1, edge.consumers + 1)]
        self._thread = threading.Thread(target=self._watch, name="edge-consumers", daemon=True)
        self._thread.start()

    @property
    def merged(self) -> str:
        """The stream of all that the consumers put out, in the order of ids."""
        return self._channels.merged

    def set(self, settings: Settings) -> None:
        """Have the consumers follow new setpoints."""
        self._order(lambda orders: replace(orders, settings=settings))

    def adopt(self, candidate: Candidate, expect: Callable[[ModelCard], None]) -> Model:
        """Have a tried model built by all, then serve in all; ModelError with the reason when one cannot.

        Then the former one serves on in all, also in those that had taken the new one up. Waits; to be called from one
        thread that is not the stream's. `expect` hears the card before the first frame.
        """
        card = _card_of(candidate)
        candidate = replace(candidate, options=self._share(candidate), recent=())
        name = str(candidate.kept.announcement)
        with self._changed:
            former = self._orders.live
        self._order(lambda orders: replace(orders, models=(*self._live, candidate)))
        try:
            self._wait(lambda answer: name in answer.built, name, "built it")
            expect(card)
            self._order(lambda orders: replace(orders, live=name))
            self._wait(lambda answer: answer.live == name, name, "taken it up")
        except ModelError:
            self._order(lambda orders: replace(orders, models=self._live, live=former))
            raise
        self._live = (candidate,)
        self._order(lambda orders: replace(orders, models=self._live))
        with self._changed:
            answers = [consumer.answer for consumer in self._consumers]
        return Model(RemoteEngine.of(answers), card)

    def close(self) -> None:
        """End them all."""
        children = [*self._others, *(consumer.child for consumer in self._consumers)]
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for child in children:
            child.let_go()
        self._thread.join()
        for child in children:
            child.end()

    # what they are started with

    def _started(self, number: int) -> Consumer:
        def named(name: str) -> str:
            return name.replace("*", str(number))

        link = Link(named(self._channels.control), named(self._channels.status))
        child = Child(f"consumer {number}", lambda: self._consumer(number), _gpu_of(number))
        return Consumer(number, child, link)

    def _consumer(self, number: int) -> list[str]:
        with self._changed:
            orders = self._orders
        return self._tools.consumer(number, orders)

    def _share(self, candidate: Candidate) -> EngineOptions:
        edge = self._config.edge
        threads = edge.threads or max(1, cores_available() // edge.consumers)
        return replace(candidate.options, threads=threads, parallel=edge.parallel or min(threads, PARALLEL))

    # orders and answers

    def _order(self, change: Callable[[Orders], Orders]) -> None:
        with self._changed:
            self._orders = replace(change(self._orders), serial=self._orders.serial + 1)
            self._changed.notify_all()

    def _wait(self, holds: Callable[[Answer], bool], name: str, what: str) -> None:
        """Wait until an answer of every consumer fulfils a condition."""

        def over() -> bool:
            answers = [consumer.answer for consumer in self._consumers]
            return self._closed or all(map(holds, answers)) or any(name in answer.refused for answer in answers)

        with self._changed:
            ended = self._changed.wait_for(over, self._timeout_s)
            for consumer in self._consumers:
                if name in consumer.answer.refused:
                    raise ModelError(f"consumer {consumer.number}: {consumer.answer.refused[name]}")
                if not ended and not holds(consumer.answer):
                    raise ModelError(f"consumer {consumer.number} has not {what} within {self._timeout_s:g} s")
            if self._closed:
                raise ModelError("the edge stops")

    def _watch(self) -> None:
        """Look after the processes: quickly while something is to be done, now and then otherwise."""
        while True:
            with self._changed:
                if self._closed:
                    return
                orders = self._orders
            settled = self._attempt(self._keep_alive)
            settled = self._attempt(self._begin) and settled
            for consumer in self._consumers:
                settled = self._attempt(partial(self._talk, consumer, orders)) and settled
            with self._changed:
                self._changed.notify_all()
                if orders is self._orders and not self._closed:
                    self._changed.wait(SETTLED_S if settled else LOOK_S)

    def _attempt(self, part: Callable[[], bool]) -> bool:
        """Do a part of the work; one that fails is told of and done again in a while, for nobody else would do it."""
        try:
            return part()
        except Exception as error:
            text = f"the consumers are not looked after: {type(error).__name__}: {error}"
            if text != self._failure:
                log.exception("the consumers are not looked after")
            self._failure = text
            self._note(Note(text, Severity.MAJOR))
            return True

    def _keep_alive(self) -> bool:
        """Say of what has died that it did, and start it again; whether all run."""
        running = True
        for consumer in self._consumers:
            if not self._keep_running(consumer.child):
                consumer.answer, consumer.begun, running = Answer(), False, False
        for child in self._others:
            was_there = child.pid != 0
            is_there = self._keep_running(child)
            if was_there and not is_there and child is self._mirror:
                self._renew_consumers()
            running = is_there and running
        return running

    def _renew_consumers(self) -> None:
        """Start all anew behind a new mirror: a monitor that a mirror has cut off may stay deaf."""
        for consumer in self._consumers:
            consumer.child.renew()

    def _keep_running(self, child: Child) -> bool:
        status = child.died()
        if status is not None and not self._closed:
            how = f"died (status {status})" if status else "ended, for its stream is gone"
            text = f"{child.name} {how}; starting another, frames that it had are missed"
            self._note(Note(text, Severity.MAJOR))
        elif child.start_again_if_due():
            self._note(Note(f"{child.name} was started again", Severity.MINOR))
        return child.pid != 0

    def _begin(self) -> bool:
        """Let frames through each consumer that the collector hears; whether that is all."""
        if all(consumer.begun for consumer in self._consumers):
            return True
        heard = json.loads(self._collector_link.said("heard") or "{}")
        for consumer in self._consumers:
            consumer.begun = consumer.child.pid != 0 and heard.get(str(consumer.number)) == consumer.child.pid
        self._collector_link.order("get_stats")
        return all(consumer.begun for consumer in self._consumers)

    def _talk(self, consumer: Consumer, orders: Orders) -> bool:
        """Hear a consumer's answer and give it the orders it has not; whether nothing more is awaited from it."""
        if consumer.child.pid == 0:
            return False
        answer = Answer.from_json(consumer.link.said("answer"))
        with self._changed:
            consumer.answer = answer
        if (answer.serial, answer.begun) != (orders.serial, consumer.begun):
            consumer.link.order("configure", replace(orders, begun=consumer.begun).to_json())
        listed = {str(candidate.kept.announcement) for candidate in orders.models}
        settled = listed <= {*answer.built, *answer.refused} and answer.live == orders.live
        if not settled or not consumer.begun or answer.serial != orders.serial:
            consumer.link.order("get_stats")
            return False
        return True


def _gpu_of(number: int) -> dict[str, str]:
    """The environment of a consumer: where there are several GPUs, one for each in turn."""
    gpus = visible_gpus()
    return {VISIBLE: gpus[(number - 1) % len(gpus)]} if len(gpus) > 1 else {}


def _card_of(candidate: Candidate) -> ModelCard:
    try:
        return ModelCard.from_json(json.loads(candidate.kept.card.read_text()))
    except ValueError as error:
        raise ModelError(f"its card is not JSON: {error}") from error
