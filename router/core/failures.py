"""When a model that keeps failing is tried again, and when it is given up."""

from __future__ import annotations

from collections import deque

from router.core.types import Policy


class FailureRecord:
    """The recent failures of one model: exponential back-off, and an end after too many within a window.

    The shape is that of OTP's restart intensity and of Kubernetes' crash-loop back-off.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._times: deque[float] = deque(maxlen=policy.failure_limit)

    def note(self, now: float) -> float | None:
        """Count a failure; returns when to try again, None when the model is to be given up."""
        while self._times and self._times[0] <= now - self._policy.failure_window:
            self._times.popleft()
        self._times.append(now)
        if len(self._times) >= self._policy.failure_limit:
            return None
        pause = self._policy.backoff_base * 2.0 ** (len(self._times) - 1)
        return now + min(pause, self._policy.backoff_cap)

    def adopt(self, policy: Policy) -> None:
        """Judge by this policy from now on."""
        self._policy = policy
        self._times = deque(self._times, maxlen=policy.failure_limit)

    def clear(self) -> None:
        self._times.clear()

    def __len__(self) -> int:
        return len(self._times)
