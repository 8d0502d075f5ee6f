"""How much room there is for one more model, now and once those that are leaving are gone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from router.core.lifecycle import LEAVING
from router.core.placement import Shortage, place
from router.core.records import Model, Replica, State
from router.core.types import DeviceId, Placement


class Room:
    """Memory and places that are free, and those that will be once the leaving replicas are gone."""

    def __init__(self, state: State, leaving: Iterable[Replica]) -> None:
        self._ledger = state.ledger
        self._rivals = state.rivals
        self._present = {replica.model for replica in state.replicas.values()}
        self._staying = set(self._present)  # less those that are leaving
        self.capacity = state.ledger.capacity()
        self.free = state.ledger.available()
        self.places = state.policy.max_models - len(state.replicas)
        self.coming = dict.fromkeys(self.free, 0)
        self.coming_places = 0
        for replica in leaving:
            self.expect(replica)

    def expect(self, replica: Replica) -> None:
        """Count on this replica's memory and place."""
        for device, amount in self._ledger.booked(replica.id).items():
            self.coming[device] += amount
        self.coming_places += 1
        self._staying.discard(replica.model)

    def take(self, model: Model, placement: Placement) -> None:
        """Set aside what a model needs, so that a later one cannot have it; may go below zero."""
        for device, amount in placement.bytes.items():
            self.free[device] -= amount
        self.places -= 1
        self._present.add(model.spec.name)
        self._staying.add(model.spec.name)

    def is_barred(self, model: Model, without: Sequence[Replica] = ()) -> bool:
        """Whether a model stays, or is to come, beside which this one must not be, even if these others leave."""
        staying = self._staying & self._rivals[model.spec.name]
        return not staying <= {replica.model for replica in without}

    def fit_now(self, model: Model) -> Placement | Shortage | None:
        """Where the model fits at once; None when only the places are taken, or a model it excludes is still there."""
        found = place(model.need, self.free, self.capacity)
        if isinstance(found, Shortage):
            return found
        return found if self.places > 0 and self._present.isdisjoint(self._rivals[model.spec.name]) else None

    def fit_later(self, model: Model, without: Sequence[Replica] = ()) -> Placement | None:
        """Where the model fits once all that is leaving, and these others, are gone."""
        if self.places + self.coming_places + len(without) <= 0 or self.is_barred(model, without):
            return None
        return self._fit(model, without)

    def fit_in_the_end(self, model: Model, residents: Sequence[Replica]) -> Placement | None:
        """Where the model would go if all residents left."""
        return self._fit(model, residents)

    def _fit(self, model: Model, without: Sequence[Replica]) -> Placement | None:
        free: dict[DeviceId, int] = {device: amount + self.coming[device] for device, amount in self.free.items()}
        for replica in without:
            for device, amount in self._ledger.booked(replica.id).items():
                free[device] += amount
        found = place(model.need, free, self.capacity)
        return found if isinstance(found, Placement) else None


def beside_pinned(state: State, model: Model) -> str | None:
    """Why the model cannot be loaded as long as the pinned ones stay; None when it can."""
    pinned = [r for r in state.replicas.values() if r.state not in LEAVING and state.models[r.model].spec.pinned]
    if not pinned:
        return None
    names = ", ".join(sorted(f"'{replica.model}'" for replica in pinned))
    rivals = sorted(state.rivals[model.spec.name] & {replica.model for replica in pinned})
    if rivals:
        return f"excludes the pinned model '{rivals[0]}', which is in memory (exclusive_with)"
    if len(pinned) >= state.policy.max_models:
        limit = state.policy.max_models
        return f"all {limit} place(s) are taken by pinned models: {names} (system.max_concurrent_models)"
    capacity = state.ledger.capacity()
    left = dict(capacity)
    for replica in pinned:
        for device, amount in state.ledger.booked(replica.id).items():
            left[device] -= amount
    found = place(model.need, left, capacity)
    return f"{found.message}; the pinned models stay: {names}" if isinstance(found, Shortage) else None
