"""What has to be done, collected while an event is worked on."""

from __future__ import annotations

from router.core.commands import Changed, Command
from router.core.records import Model


class Outbox:
    """Commands in order; the models whose outward view has changed are named once, at the end."""

    def __init__(self) -> None:
        self._commands: list[Command] = []
        self._changed: dict[str, None] = {}

    def add(self, command: Command) -> None:
        self._commands.append(command)

    def touch(self, model: Model) -> None:
        """The outward view of this model is another now."""
        self._changed[model.spec.name] = None

    def flush(self) -> list[Command]:
        """Hand everything out and start anew."""
        commands = self._commands
        if self._changed:
            commands.extend(Changed(name) for name in self._changed)
            self._changed = {}
        self._commands = []
        return commands
