"""Bytes booked and bytes seen, per device.

A booking is a promise: it stands from the reservation of a replica until its memory has been seen free again. What a
device reports as free is true only for what is already allocated, so what is booked and not yet seen is taken off it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from router.core.spread import on_gpus
from router.core.types import HOST, Device, DeviceId, DeviceReading, DeviceView, Need, Placement, ReplicaId

# A load that holds so much of its booking has allocated it.
_ALLOCATED_SHARE = 0.95


@dataclass(slots=True)
class Booking:
    """One replica's share of the devices, in bytes per device."""

    booked: dict[DeviceId, int]
    reserve: int
    seen: dict[DeviceId, int] = field(default_factory=dict)
    peak: dict[DeviceId, int] = field(default_factory=dict)
    at_ready: int = 0  # bytes of RAM


class Ledger:
    """Who has what. One writer: the scheduler."""

    def __init__(self, devices: Iterable[Device]) -> None:
        self.devices = {device.id: device for device in devices}
        self._readings = {d.id: DeviceReading(d.id, d.total, 0, d.total) for d in self.devices.values()}
        self._bookings: dict[ReplicaId, Booking] = {}

    def book(self, replica: ReplicaId, placement: Placement) -> None:
        self._bookings[replica] = Booking(dict(placement.bytes), placement.reserve)

    def release(self, replica: ReplicaId) -> None:
        self._bookings.pop(replica, None)

    def observe_devices(self, readings: Iterable[DeviceReading]) -> None:
        for reading in readings:
            if reading.id in self.devices:
                self._readings[reading.id] = reading

    def observe_replica(self, replica: ReplicaId, usage: Mapping[DeviceId, int]) -> None:
        """What a replica's processes hold now. The booking never falls below the highest value ever seen."""
        booking = self._bookings.get(replica)
        if booking is None:
            return
        booking.seen.update(usage)
        self.observe_peak(replica, usage)

    def observe_peak(self, replica: ReplicaId, peak: Mapping[DeviceId, int]) -> None:
        """The most that its processes ever held, as far as that is known."""
        booking = self._bookings.get(replica)
        if booking is None:
            return
        for device, seen in peak.items():
            booking.peak[device] = max(seen, booking.peak.get(device, 0))
            booking.booked[device] = max(booking.booked.get(device, 0), booking.peak[device])

    def has_allocated(self, replica: ReplicaId) -> bool:
        """Whether its GPUs show what was booked there; those that cannot tell do not."""
        booking = self._bookings[replica]
        gpus = [device for device in booking.booked if device != HOST]
        return bool(gpus) and all(booking.seen.get(g, 0) >= _ALLOCATED_SHARE * booking.booked[g] for g in gpus)

    def expect(self, replica: ReplicaId, need: Need) -> None:
        """Better knowledge of a replica that is being loaded; its GPUs share in the proportion of their bookings."""
        booking = self._bookings[replica]
        gpus = {device: booked for device, booked in booking.booked.items() if device != HOST}
        together = sum(gpus.values())
        wanted = on_gpus(need, len(gpus))
        for device, booked in gpus.items():
            booking.booked[device] = max(wanted * booked // max(1, together), booking.peak.get(device, 0))
        booking.booked[HOST] = max(need.host + booking.reserve, booking.peak.get(HOST, 0))

    def settle(self, replica: ReplicaId, host: int = 0) -> None:
        """The replica is ready: what it was seen to take replaces the estimate, its growth reserve stays booked.

        Args:
            host: bytes of RAM that it will take at least once it has worked.
        """
        booking = self._bookings[replica]
        booking.at_ready = booking.peak.get(HOST, 0)
        host = min(host, booking.booked.get(HOST, 0) - booking.reserve)  # of growth it may have got less
        for device, peak in booking.peak.items():
            booking.booked[device] = max(peak, host) + booking.reserve if device == HOST else peak

    def booked(self, replica: ReplicaId) -> Mapping[DeviceId, int]:
        booking = self._bookings.get(replica)
        return {} if booking is None else booking.booked

    def seen(self, replica: ReplicaId) -> Mapping[DeviceId, int]:
        booking = self._bookings.get(replica)
        return {} if booking is None else booking.seen

    def peak(self, replica: ReplicaId) -> Mapping[DeviceId, int]:
        booking = self._bookings.get(replica)
        return {} if booking is None else booking.peak

    def at_ready(self, replica: ReplicaId) -> int:
        """Bytes of RAM that it held when it became ready; 0 = that was not seen."""
        booking = self._bookings.get(replica)
        return 0 if booking is None else booking.at_ready

    def capacity(self) -> dict[DeviceId, int]:
        return {device.id: device.capacity for device in self.devices.values()}

    def available(self) -> dict[DeviceId, int]:
        """Bytes that a new replica could book per device; may be negative after unforeseen growth."""
        return {device: self._available(device) for device in self.devices}

    def views(self) -> tuple[DeviceView, ...]:
        return tuple(self._view(device) for device in self.devices.values())

    def _available(self, device: DeviceId) -> int:
        booked = unseen = 0
        for booking in self._bookings.values():
            own = booking.booked.get(device, 0)
            booked += own
            unseen += max(0, own - booking.seen.get(device, 0))
        reading = self._readings[device]
        if reading.fault:  # nothing new goes there, whoever may leave it
            return -reading.total - booked
        return min(self.devices[device].capacity - booked, reading.free - unseen)

    def _view(self, device: Device) -> DeviceView:
        reading = self._readings[device.id]
        return DeviceView(
            device=device,
            total=reading.total,
            used=reading.used,
            free=reading.free,
            booked=sum(b.booked.get(device.id, 0) for b in self._bookings.values()),
            seen=sum(b.seen.get(device.id, 0) for b in self._bookings.values()),
            available=max(0, self._available(device.id)),
            fault=reading.fault,
        )
