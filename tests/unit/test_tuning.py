"""What the configuration means for the engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.config import Settings, SystemConfig
from router.core.lifecycle import ReplicaState
from router.tuning import limits_of
from tests.support.drive import Drive, cpu_model


@pytest.mark.parametrize(("kept", "at_most"), [(True, 5 + 2 * 30), (False, 5)])
def test_a_stop_may_take_longer_for_the_sake_of_conversations_alone(kept: bool, at_most: float, tmp_path: Path) -> None:
    settings = Settings.build(models={}, system=SystemConfig(keep_conversations=kept), folder=tmp_path)
    drive = Drive([cpu_model("a", slots=1)])
    drive.rest("a")
    drive.eject("a")
    (replica,) = drive.scheduler.replicas.values()
    assert replica.state is ReplicaState.STOPPING
    assert limits_of(settings).patience().with_step(replica) == at_most
