"""The `models` table: what is configured, where, how big, and whether it would fit."""

from __future__ import annotations

from collections.abc import Sequence

from router.core.placement import Shortage, place
from router.core.types import Device, DeviceReading
from router.devices.gguf import GgufError, read_header
from router.inventory import MIB, Entry

_UNREADABLE = "unreadable"
_HEAD = ("MODEL", "KIND", "SIZE", "CONTEXT", "SLOTS", "WOULD TAKE", "SAYS", "FITS", "FILE")


def models_table(entries: Sequence[Entry], devices: Sequence[Device], readings: Sequence[DeviceReading]) -> str:
    """One line per model, aligned, below one line per device. Reads every model's header: blocking."""
    capacity = {device.id: device.capacity for device in devices}
    free = {reading.id: min(reading.free, capacity.get(reading.id, 0)) for reading in readings}
    lines = [_device_line(device, free.get(device.id, 0)) for device in devices]
    rows = [_HEAD, *(_row(entry, free, capacity) for entry in entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines += ["", *("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)]
    return "\n".join(lines)


def _device_line(device: Device, free: int) -> str:
    return f"{device.id} ({device.name}): {_mib(free)} of {_mib(device.total)} free for models"


def _row(entry: Entry, free: dict[str, int], capacity: dict[str, int]) -> tuple[str, ...]:
    kind, context = _header(entry)
    verdict = _verdict(entry, free, capacity) if kind != _UNREADABLE else f"no: {context}"
    if kind != _UNREADABLE and entry.unreadable:
        verdict += f", by its size alone: {entry.unreadable}"
    return (
        ", ".join((entry.name, *entry.config.aliases)),
        kind,
        _mib(entry.file_bytes),
        context if kind != _UNREADABLE else "-",
        str(entry.slots),
        _mib(entry.need.total + entry.need.growth),
        entry.need.source,
        verdict,
        str(entry.files[0]),
    )


def _header(entry: Entry) -> tuple[str, str]:
    """Architecture and context length, or `unreadable` and why."""
    try:
        header = read_header(entry.files[0])
    except (GgufError, OSError) as error:
        return _UNREADABLE, str(error)
    return header.architecture or "?", "-" if header.context_length is None else str(header.context_length)


def _verdict(entry: Entry, free: dict[str, int], capacity: dict[str, int]) -> str:
    found = place(entry.need, free, capacity)
    if isinstance(found, Shortage):
        return f"never: {found.message}" if found.never else f"not now: {found.message}"
    return "yes, on " + " + ".join(found.bytes)


def _mib(amount: int) -> str:
    return f"{amount / MIB:,.1f} MiB" if amount < 100 * MIB else f"{amount / MIB:,.0f} MiB"
