"""How much room there is for one more model, now and once those that are leaving are gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from router.core.growth import extras
from router.core.placement import Shortage, place
from router.core.records import Model, Replica, State
from router.core.types import HOST, DeviceId, Placement


class Room:
    """Memory and places that are free, and those that will be once the leaving replicas are gone.

    A place is a model's, however many replicas it has.
    """

    def __init__(self, state: State, leaving: Iterable[Replica]) -> None:
        self._ledger = state.ledger
        self._rivals = state.rivals
        self._present = {replica.model for replica in state.replicas.values()}
        self._staying = Counter(replica.model for replica in state.replicas.values())  # less those that are leaving
        self.capacity = state.ledger.capacity()
        self._kept = kept_ram(state)
        self.free = state.ledger.available()
        self.places = state.policy.max_models - len(self._present)
        self.coming = dict.fromkeys(self.free, 0)
        self.coming_places = 0
        for replica in leaving:
            self.expect(replica)

    def expect(self, replica: Replica) -> None:
        """Count on this replica's memory and place."""
        for device, amount in self._ledger.booked(replica.id).items():
            self.coming[device] += amount
        self._staying[replica.model] -= 1
        if not self._staying[replica.model]:
            self.coming_places += 1

    def take(self, model: Model, placement: Placement) -> None:
        """Set aside what a model needs, so that a later one cannot have it; may go below zero."""
        for device, amount in placement.bytes.items():
            self.free[device] -= amount
        if model.spec.name not in self._present:
            self.places -= 1
        self._present.add(model.spec.name)
        self._staying[model.spec.name] += 1

    def is_barred(self, model: Model, without: Sequence[Replica] = ()) -> bool:
        """Whether a model stays, or is to come, beside which this one must not be, even if these others leave."""
        rivals = self._rivals[model.spec.name]
        if not rivals:
            return False
        left = Counter(replica.model for replica in without)
        return any(self._staying[rival] > left[rival] for rival in rivals)

    def fit_now(self, model: Model) -> Placement | Shortage | None:
        """Where the model fits at once; None when only the places are taken, or a model it excludes is still there."""
        found = place(model.need, self.free, self.capacity, self._kept)
        if isinstance(found, Shortage):
            return found
        has_place = self.places > 0 or model.spec.name in self._present
        return found if has_place and self._present.isdisjoint(self._rivals[model.spec.name]) else None

    def fit_later(self, model: Model, without: Sequence[Replica] = ()) -> Placement | None:
        """Where the model fits once all that is leaving, and these others, are gone."""
        places = self.places + self.coming_places
        if places <= 0 and places + self._freed_places(without) <= 0:
            return None
        return None if self.is_barred(model, without) else self._fit(model, without)

    def _freed_places(self, without: Sequence[Replica]) -> int:
        """Models that have nothing left once these are gone."""
        left = Counter(replica.model for replica in without)
        return sum(self._staying[name] == count for name, count in left.items())

    def fit_in_the_end(self, model: Model, residents: Sequence[Replica]) -> Placement | None:
        """Where the model would go if all residents left."""
        return self._fit(model, residents)

    def _fit(self, model: Model, without: Sequence[Replica]) -> Placement | None:
        free: dict[DeviceId, int] = {device: amount + self.coming[device] for device, amount in self.free.items()}
        for replica in without:
            for device, amount in self._ledger.booked(replica.id).items():
                free[device] += amount
        found = place(model.need, free, self.capacity, self._kept)
        return found if isinstance(found, Placement) else None


def pinned_of(model: Model) -> list[Replica]:
    """The replicas of a pinned model that stay: all but the extra ones."""
    extra = extras(model)
    return [replica for replica in model.staying if replica not in extra]


def _pinned(state: State) -> list[Replica]:
    return [replica for model in state.models.values() if model.spec.pinned for replica in pinned_of(model)]


def kept_ram(state: State) -> int:
    """Bytes of RAM that are booked for replicas that stay."""
    return sum(state.ledger.booked(replica.id).get(HOST, 0) for replica in _pinned(state))


def beside_pinned(state: State, model: Model) -> str | None:
    """Why the model cannot be loaded as long as the pinned ones stay; None when it can."""
    pinned = _pinned(state)
    if not pinned:
        return None
    holders = sorted({replica.model for replica in pinned})
    names = ", ".join(f"'{name}'" for name in holders)
    rivals = sorted(state.rivals[model.spec.name].intersection(holders))
    if rivals:
        return f"excludes the pinned model '{rivals[0]}', which is in memory (exclusive_with)"
    if len(holders) >= state.policy.max_models:
        limit = state.policy.max_models
        return f"all {limit} place(s) are taken by pinned models: {names} (system.max_concurrent_models)"
    capacity = state.ledger.capacity()
    left = dict(capacity)
    for replica in pinned:
        for device, amount in state.ledger.booked(replica.id).items():
            left[device] -= amount
    found = place(model.need, left, capacity, kept_ram(state))
    return f"{found.message}; the pinned models stay: {names}" if isinstance(found, Shortage) else None
