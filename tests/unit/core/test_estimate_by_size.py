"""The first estimate: file size, factor, flags."""

import pytest

from router.core.estimate.by_size import GPU_CHILD_HOST_BYTES, estimate, uses_gpu
from router.core.types import Need

GIB = 1024**3


def _need(*flags: str, gpu: bool = True, cache_ram: int = 0) -> Need:
    return estimate(file_bytes=10 * GIB, multiplier=1.1, gpu_available=gpu, flags=flags, cache_ram=cache_ram)


def test_a_model_goes_to_the_gpu_as_a_whole() -> None:
    assert _need() == Need(gpu=11 * GIB, host=GPU_CHILD_HOST_BYTES)


def test_without_a_gpu_it_goes_to_the_host() -> None:
    assert _need("-ngl", "99", gpu=False) == Need(gpu=0, host=11 * GIB)


@pytest.mark.parametrize("cache_ram", [0, GIB])
@pytest.mark.parametrize("gpu", [True, False])
def test_the_prompt_cache_is_a_reserve_on_the_host(*, gpu: bool, cache_ram: int) -> None:
    assert _need(gpu=gpu, cache_ram=cache_ram).reserve == cache_ram


def test_no_limit_on_the_prompt_cache_books_no_negative_reserve() -> None:
    assert _need(cache_ram=-1).reserve == 0


@pytest.mark.parametrize(
    "flags",
    [
        ("-ngl", "0"),
        ("--gpu-layers", "0"),
        ("--n-gpu-layers", "0"),
        ("--gpu-layers=0",),
        ("--n_gpu_layers", "0"),
        ("-dev", "none"),
        ("--device", "none"),
        ("--device=none",),
        ("-c", "4096", "-ngl", "99", "-ngl", "0"),
    ],
)
def test_flags_that_keep_it_on_the_cpu(flags: tuple[str, ...]) -> None:
    assert not uses_gpu(flags)
    assert _need(*flags).gpu == 0


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("-ngl", "99"),
        ("-ngl", "0", "--gpu-layers", "all"),
        ("-ngl", "10"),
        ("-ngld", "0"),
        ("-dev", "CUDA0"),
        ("-ngl",),
        ("--override-kv", "x=int:0"),
    ],
)
def test_flags_that_leave_it_on_the_gpu(flags: tuple[str, ...]) -> None:
    assert uses_gpu(flags)
