"""What models take as their replicas show it: foreseen, seen, learned, and raised where it was not enough."""

from __future__ import annotations

from collections.abc import Mapping

from router.core.commands import Evicted
from router.core.fleet import Fleet
from router.core.growth import extras
from router.core.learning import FORESEEN, RAISED, observed_need, outgrown, projected_need, raised_need
from router.core.lifecycle import ReplicaState
from router.core.outbox import Outbox
from router.core.records import Model, Replica, State
from router.core.types import HOST, DeviceId, DeviceKind, Exhaustion


class Appetite:
    """Keeps the models' needs. Part of the scheduler, and called by it alone."""

    def __init__(self, state: State, out: Outbox, fleet: Fleet) -> None:
        self._state = state
        self._ledger = state.ledger
        self._out = out
        self._fleet = fleet

    def projected(self, replica: Replica, gpu: int, host: int) -> bool:
        """A child has announced what it will allocate, in bytes; returns whether that is news."""
        if not replica.placement.whole:
            return False  # of one that has to be cut nothing is known before that is done
        model = self._model(replica)
        need = projected_need(model.need, gpu, host, len(replica.placement.gpus))
        if need == model.need:
            return False
        model.need = need
        self._ledger.expect(replica.id, need)
        self._out.touch(model)
        return True

    def loaded(self, replica: Replica) -> None:
        """A load is over; what was foreseen stands beside what is seen until the replica has worked."""
        model = self._model(replica)
        model.lower_need = None
        foreseen = model.need.source in FORESEEN
        # Without a base, what it was seen to take holds growth that is booked with the reserve already.
        self._ledger.settle(replica.id, model.need.host if foreseen or model.need.base else 0)
        if not foreseen:
            self._learn(model, replica)

    def observed(self, replica: Replica, held: Mapping[DeviceId, int], peak: Mapping[DeviceId, int]) -> None:
        """What a replica's processes hold, and the most that they ever held."""
        self._ledger.observe_replica(replica.id, held)
        self._ledger.observe_peak(replica.id, peak)
        model = self._model(replica)
        if replica.state is ReplicaState.STARTING:
            replica.allocated = replica.allocated or self._ledger.has_allocated(replica.id)
        elif replica.has_worked and outgrown(model.need, self._ledger.peak(replica.id)):
            self._learn(model, replica)
            self._out.touch(model)

    def ended(self, replica: Replica) -> None:
        """A replica is gone, and will not show anything more."""
        model = self._model(replica)
        if model.need.source not in FORESEEN or replica.has_worked:
            self._learn(model, replica)

    def ran_out(self, replica: Replica, exhausted: Exhaustion) -> None:
        """It ran out of memory at work: its next replica is given more room, until that one has shown what it takes."""
        model = self._model(replica)
        if model.need.source != RAISED:  # once: it may be something else that fills the memory
            seen, most = self._ledger.peak(replica.id), self._ledger.capacity()
            model.need = raised_need(model.need, exhausted, seen, most)

    def raise_after(self, replica: Replica, exhausted: Exhaustion, reason: str, now: float) -> bool:
        """A load has run out of memory: raise its model's need and make idle others go.

        Returns whether it is worth another try: once.
        """
        model = self._model(replica)
        if model.lower_need is not None:
            return False
        seen, most = self._ledger.peak(replica.id), self._ledger.capacity()
        model.raise_need(raised_need(model.need, exhausted, seen, most))
        model.reason = f"is loaded once more, with more room, after this: {reason}"
        devices = {HOST} if exhausted.kind is DeviceKind.HOST else set(replica.placement.gpus)
        for other in list(self._state.replicas.values()):
            if self._may_go(other) and not devices.isdisjoint(other.placement.bytes):
                self._out.add(Evicted(other.model, model.spec.name, other.id))
                other.makes_room_for = model.spec.name
                model.promised = True
                self._fleet.let_go(other, f"makes room for {model.spec.name}", now)
        return True

    def _may_go(self, replica: Replica) -> bool:
        """Whether it idles, and is neither pinned nor kept."""
        model = self._model(replica)
        if not model.rests(replica):
            return False
        return replica in extras(model) or not (model.spec.pinned or model.spec.min_replicas)

    def _learn(self, model: Model, replica: Replica) -> None:
        """Of one that was cut it is not known what it takes as a whole; one that is stale was another model."""
        if replica.ready is not None and not replica.cut and not replica.stale:
            peak, at_ready = self._ledger.peak(replica.id), self._ledger.at_ready(replica.id)
            model.need = observed_need(model.need, peak, at_ready, least=model.spec.need.base)

    def _model(self, replica: Replica) -> Model:
        return self._state.models[replica.model]
