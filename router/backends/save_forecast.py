"""What saving a conversation will cost, and what it will spare: measured so far, and used to decide."""

from __future__ import annotations

from dataclasses import dataclass, field

from router.engine.ports import KEEP_TIMEOUT_SEC

# Of the prefill that a save spares, the part that it may take itself.
WORTH_SHARE = 0.25
# Two calls and a file cost this much at any size.
_OVERHEAD_SEC = 0.005
_FIRST_GUESS = 250e6  # bytes per second, of a plain disk
_MEASURABLE = 1_000_000  # bytes; below it one sees the overhead


@dataclass(slots=True)
class DiskPace:
    """How fast llama-server writes to the state folder, in bytes per second; one for all models."""

    rate: float = _FIRST_GUESS

    def note(self, size: int, seconds: float) -> None:
        if size >= _MEASURABLE and seconds > 0:
            self.rate = (self.rate + size / seconds) / 2


@dataclass(slots=True)
class Forecast:
    """One model's figures, over all of its children.

    Attributes:
        in_vain: what is restored is of no use to this model, or this build cannot do it: save nothing.
    """

    disk: DiskPace = field(default_factory=DiskPace)
    in_vain: bool = False
    _bytes_per_token: float = 0.0
    _prompt_tokens: float = 0.0
    _prompt_seconds: float = 0.0

    def note_prompts(self, tokens: float, seconds: float) -> None:
        """A child read so many tokens in that time."""
        self._prompt_tokens += tokens
        self._prompt_seconds += seconds

    def note_save(self, tokens: int, size: int, seconds: float) -> None:
        """So many tokens became so many bytes."""
        self._bytes_per_token = size / max(1, tokens)
        self.disk.note(size, seconds)

    def size(self, tokens: int) -> int:
        """Bytes of a file with so many tokens; 0 before the first save."""
        return round(self._bytes_per_token * tokens)

    def prefill(self, tokens: int) -> float:
        """Seconds that reading so many tokens takes."""
        return 0.0 if not self._prompt_tokens else tokens * self._prompt_seconds / self._prompt_tokens

    def is_worth_it(self, tokens: int) -> bool:
        """Whether saving takes at most a quarter of what it spares."""
        return not self.in_vain and _OVERHEAD_SEC + self.size(tokens) / self.disk.rate <= WORTH_SHARE * self.prefill(
            tokens
        )


def deadline(prefill: float) -> float:
    """The longest that saving or restoring may take: beyond it, it is not worth it."""
    return min(KEEP_TIMEOUT_SEC, WORTH_SHARE * prefill)
