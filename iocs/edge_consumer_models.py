"""The models of one consumer: built in a thread as soon as they are ordered, kept until they serve no more."""

import queue
import threading

from iocs.edge_batches import Model, close_retired
from iocs.edge_consumer_child import vital
from iocs.edge_consumer_orders import Answer, Orders
from iocs.edge_trial import Candidate, build, reason_of


class Models:
    """Follows the orders' list of models; what has been tried before is built here without another trial."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._wanted: queue.SimpleQueue[Candidate | Model] = queue.SimpleQueue()
        self._known: set[str] = set()
        self._listed: set[str] = set()
        self._built: dict[str, Model] = {}
        self._taken: set[str] = set()
        self._refused: dict[str, str] = {}
        threading.Thread(target=vital(self._work), name="consumer-models", daemon=True).start()

    def follow(self, orders: Orders) -> None:
        """Build the models that are new on the list; one that is off it and does not serve is given back."""
        with self._changed:
            listed = {str(candidate.kept.announcement): candidate for candidate in orders.models}
            self._listed = set(listed)
            for name in self._known - self._listed:
                self._known.discard(name)
                self._refused.pop(name, None)
                if name in self._built and name not in self._taken:
                    self._wanted.put(self._built.pop(name))
            for name, candidate in listed.items():
                if name not in self._known:
                    self._known.add(name)
                    if name not in self._built:
                        self._wanted.put(candidate)

    def wait(self) -> None:
        """Wait until all that was ordered is built or refused."""
        with self._changed:
            self._changed.wait_for(lambda: self._known <= {*self._built, *self._refused})

    def take_live(self, name: str) -> Model | None:
        """The model of that name, to serve; None while it is not built."""
        with self._changed:
            if name in self._built:
                self._taken.add(name)
            return self._built.get(name)

    def retire(self, model: Model) -> None:
        """Close a model that serves no more, when its last batch is through; one that is listed may serve again."""
        with self._changed:
            names = {name for name, kept in self._built.items() if kept is model}
            self._taken -= names
            if names and names <= self._listed:
                return
            for name in names:
                del self._built[name]
        self._wanted.put(model)

    def answer(self, orders: Orders, live: str, model: Model | None) -> Answer:
        """How far the orders are followed."""
        with self._changed:
            engine = None if model is None else model.engine
            return Answer(
                serial=orders.serial,
                begun=orders.begun,
                built=tuple(self._built),
                refused=dict(self._refused),
                live=live,
                engine="" if engine is None else engine.name,
                difference_rad=None if engine is None else engine.difference_rad,
                remark="" if engine is None else engine.remark,
            )

    def _work(self) -> None:
        while True:
            job = self._wanted.get()
            if isinstance(job, Model):
                close_retired(job)
            else:
                self._settle(str(job.kept.announcement), _built(job))
            del job  # it would be held until the next one comes

    def _settle(self, name: str, made: Model | str) -> None:
        """Keep a model, or the reason why there is none; give back what is not wanted any more."""
        with self._changed:
            if isinstance(made, str):
                self._refused[name] = made
            elif name in self._listed:
                self._built[name] = made
            else:
                self._wanted.put(made)
            self._changed.notify_all()


def _built(candidate: Candidate) -> Model | str:
    try:
        return Model(*build(candidate))
    except Exception as error:  # noqa: BLE001  (it is the answer, and the next model needs this thread)
        return reason_of(error)
