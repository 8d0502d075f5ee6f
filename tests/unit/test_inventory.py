"""What start-up says of models that are to be kept in memory."""

from __future__ import annotations

from dataclasses import replace

from router.core.types import ModelSpec
from router.inventory import kept_in_vain
from tests.support.drive import cpu_model, gpu, gpu_model, host


def kept(model: ModelSpec, least: int) -> ModelSpec:
    return replace(model, min_replicas=least, max_replicas=64)


def test_what_fits_is_not_mentioned() -> None:
    models = [kept(cpu_model("a", 4), 3), kept(gpu_model("b", 8), 2), cpu_model("c", 16)]
    assert not list(kept_in_vain(models, [host(), gpu(0)], places=3))


def test_memory_for_only_some_of_them_is_told_with_the_arithmetic() -> None:
    models = [kept(cpu_model("a", 6), 2), kept(cpu_model("b", 6), 1)]
    (told,) = kept_in_vain(models, [host()], places=3)
    assert told == (
        "models.b.min_replicas is 1, and memory for 0 is there: the next one "
        "needs 6,144 MiB on host (4,096 MiB of 16,384 MiB free): 2,048 MiB short on host."
    )


def test_a_second_one_that_is_cut_does_not_count() -> None:
    (told,) = kept_in_vain([kept(gpu_model("a", 20), 2)], [host(64), gpu(0)], places=3)
    assert "min_replicas is 2, and memory for 1 is there" in told


def test_more_models_than_places_are_told() -> None:
    (told,) = kept_in_vain([kept(cpu_model(name), 1) for name in "ab"], [host()], places=1)
    assert "keeps 2 models in memory, and system.max_concurrent_models allows 1" in told
