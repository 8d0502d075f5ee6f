"""The steps of a replica's life, each with its booking and its command."""

from __future__ import annotations

from router.core.commands import Start, Stop, WakeAt
from router.core.growth import extras
from router.core.lifecycle import ReplicaState
from router.core.outbox import Outbox
from router.core.plan import startable
from router.core.records import Model, Replica, State
from router.core.types import Placement


class Fleet:
    """Carries out what was decided about replicas. Part of the scheduler, and called by it alone."""

    def __init__(self, state: State, out: Outbox) -> None:
        self._state = state
        self._out = out
        self._ids = 0

    def reserve(self, model: Model, placement: Placement, now: float) -> None:
        """Book a placement for a new replica."""
        self._ids += 1
        replica = Replica(self._ids, model.spec.name, placement, model.spec.slots, created=now)
        self._state.replicas[replica.id] = replica
        self._state.ledger.book(replica.id, placement)
        model.replicas.append(replica)
        model.reason, model.promised, model.ejected, model.misfit = "", False, False, False
        self._out.touch(model)

    def start_reserved(self, now: float) -> None:
        """Start every reserved replica whose GPUs no other load keeps."""
        chosen, wake = startable(self._state, now)
        for replica in chosen:
            replica.to(ReplicaState.STARTING, now)
            replica.started = now
            self._out.add(Start(replica.id, replica.model, replica.placement))
        if wake is not None:
            self._out.add(WakeAt(wake))

    def drop_unwanted(self, now: float) -> None:
        """Give up reserved replicas that nobody waits for any more."""
        for replica in list(self._state.replicas.values()):
            model = self._model(replica)
            is_wanted = model.queue or model.want or model.spec.min_replicas
            if replica.state is ReplicaState.RESERVED and not is_wanted:
                self.remove(replica, now)

    def abandon(self, model: Model, now: float) -> None:
        """Give up a load that nobody waits for any more, while more of it is to come than has been spent.

        A load is given up once only: else a client that is less patient than the load is long, and tries again, would
        never see its end.
        """
        replica = next((one for one in model.replicas if one.state is ReplicaState.STARTING), None)
        if replica is None or replica.started is None or model.want or model.abandoned:
            return
        if model.spec.min_replicas and replica not in extras(model):
            return
        if now - replica.started > model.experience.load_seconds / 2:
            return
        model.abandoned = True
        self.let_go(replica, "nobody waits for it any more", now)

    def let_go(self, replica: Replica, reason: str, now: float) -> None:
        """Lead a replica out of memory by the gentlest way its state allows."""
        replica.reason = reason
        if replica.state is ReplicaState.RESERVED:
            self.remove(replica, now)
        elif replica.state is ReplicaState.STARTING:
            self.stop(replica, now, force=True)
        elif replica.state is ReplicaState.READY:
            replica.to(ReplicaState.DRAINING, now)
            self._out.touch(self._model(replica))
            if not replica.leases:
                self.stop(replica, now, force=False)
        elif replica.state is ReplicaState.DRAINING:
            replica.makes_room_for = None  # whoever asked now does not want it back

    def revive(self, replica: Replica, now: float) -> None:
        """A draining replica stays after all."""
        replica.to(ReplicaState.READY, now)
        replica.reason, replica.makes_room_for = "", None
        self._out.touch(self._model(replica))

    def stop(self, replica: Replica, now: float, *, force: bool) -> None:
        """Have its child ended."""
        replica.to(ReplicaState.STOPPING, now)
        self._out.touch(self._model(replica))
        self._out.add(Stop(replica.id, replica.model, force, replica.reason, keep=not replica.stale))

    def remove(self, replica: Replica, now: float) -> None:
        """It is no more: its booking ends."""
        replica.to(ReplicaState.GONE, now)
        del self._state.replicas[replica.id]
        self._state.ledger.release(replica.id)
        model = self._model(replica)
        model.replicas.remove(replica)
        self._out.touch(model)

    def _model(self, replica: Replica) -> Model:
        return self._state.models[replica.model]
