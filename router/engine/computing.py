"""Whether a child computes, from the CPU time of its process."""

from __future__ import annotations

from time import monotonic

from router.engine.ports import Child

# A server that only answers `/slots` and `/health` takes less than a hundredth of a core.
_SHARE = 0.1


class Computing:
    """What a child computes from now on."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._since = monotonic()
        self._before = child.cpu_seconds()

    def __bool__(self) -> bool:
        """Whether it has taken a tenth of a core since."""
        return self._child.cpu_seconds() - self._before > _SHARE * (monotonic() - self._since)
