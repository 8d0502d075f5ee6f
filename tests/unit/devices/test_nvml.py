"""GPUs through NVML: what is found, what is read, and every way in which it fails."""

import pynvml
import pytest

from router.core.types import DeviceReading
from router.devices.nvml import Gpus
from tests.fakes.nvml import MIB, FakeGpu, FakeNvml

LOST = pynvml.NVML_ERROR_GPU_IS_LOST


def _open(*gpus: FakeGpu, indices: tuple[int, ...] = (0, 1), budget: int | None = None) -> Gpus:
    return Gpus.open(indices, budget, FakeNvml(list(gpus)))


def test_a_gpu_as_a_device_less_reserve_and_margin() -> None:
    (device,) = _open(FakeGpu(name=b"NVIDIA RTX 4090", total=24_576 * MIB, reserved=576 * MIB), indices=(0,)).devices
    assert (device.id, device.index, device.name, device.total) == ("gpu:0", 0, "NVIDIA RTX 4090", 24_576 * MIB)
    assert device.capacity == 24_000 * MIB - 480 * MIB  # 2 %


def test_the_margin_is_never_below_256_mib() -> None:
    assert _open(FakeGpu(total=8_000 * MIB)).devices[0].capacity == 7_744 * MIB


def test_a_gpu_smaller_than_the_margin_has_no_room() -> None:
    assert _open(FakeGpu(total=128 * MIB)).devices[0].capacity == 0


@pytest.mark.parametrize(("budget", "capacity"), [(4_000, 4_000), (90_000, 24_576)])
def test_a_budget_replaces_the_margin_within_what_there_is(budget: int, capacity: int) -> None:
    assert _open(FakeGpu(), budget=budget * MIB).devices[0].capacity == capacity * MIB


def test_a_reading_leaves_the_drivers_reserve_out_of_used() -> None:
    gpus = _open(FakeGpu(total=1_000 * MIB, used=300 * MIB, reserved=100 * MIB))
    assert gpus.read() == (DeviceReading("gpu:0", 1_000 * MIB, 300 * MIB, 600 * MIB),)


def test_an_old_driver_is_asked_in_old_words() -> None:
    nvml = FakeNvml([FakeGpu(total=1_000 * MIB, used=300 * MIB, processes={7: 5})], old_driver=True)
    gpus = Gpus.open([0], None, nvml)
    assert gpus.read() == (DeviceReading("gpu:0", 1_000 * MIB, 300 * MIB, 700 * MIB),)
    assert gpus.usage({7}) == {"gpu:0": 5}


def test_only_the_gpus_asked_for() -> None:
    gpus = _open(FakeGpu(), FakeGpu(), FakeGpu(), indices=(2, 0, 2))
    assert [device.id for device in gpus.devices] == ["gpu:2", "gpu:0"]
    assert not gpus.reason
    assert not gpus.notes


def test_an_index_that_does_not_exist_is_a_note() -> None:
    gpus = _open(FakeGpu(), FakeGpu(), indices=(0, 5))
    assert [device.id for device in gpus.devices] == ["gpu:0"]
    assert gpus.notes == ("gpu_devices names GPU 5, but there is only 0, 1",)


def test_none_of_the_indices_exists() -> None:
    gpus = _open(FakeGpu(), indices=(5,))
    assert gpus.devices == ()
    assert gpus.reason == "none of gpu_devices can be used: gpu_devices names GPU 5, but there is only 0"


def test_a_gpu_lost_at_the_start_is_left_out_with_a_note() -> None:
    gpus = _open(FakeGpu(error=LOST), FakeGpu())
    assert [device.id for device in gpus.devices] == ["gpu:1"]
    assert gpus.notes == ("GPU 0 is left out: it cannot be read (NVML: GPU is lost)",)


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_no_driver_means_no_gpus_and_a_reason(code: int) -> None:
    gpus = Gpus.open([0], None, FakeNvml(init_error=code))
    assert gpus.devices == ()
    assert gpus.read() == ()
    assert gpus.usage({1}) == {}
    assert "no NVIDIA driver answers" in gpus.reason
    gpus.close()


def test_without_indices_nvml_is_not_touched() -> None:
    nvml = FakeNvml([FakeGpu()])
    assert Gpus.open([], None, nvml).reason == "gpu_devices is empty"
    assert nvml.opened == 0


def test_a_gpu_lost_in_mid_run_keeps_its_last_reading_in_quarantine() -> None:
    lost, other = FakeGpu(used=100 * MIB), FakeGpu()
    gpus = _open(lost, other)
    before = gpus.read()
    lost.error, other.used = LOST, 50 * MIB
    after = gpus.read()
    assert after[0] == before[0]
    assert after[1].used == 50 * MIB
    assert gpus.quarantined == {"gpu:0": "NVML: GPU is lost"}


def test_a_gpu_that_answers_again_is_let_out() -> None:
    gpu = FakeGpu(error=None)
    gpus = _open(gpu)
    gpu.error = pynvml.NVML_ERROR_UNKNOWN
    gpus.read()
    gpu.error, gpu.used = None, 70 * MIB
    assert gpus.read()[0].used == 70 * MIB
    assert gpus.quarantined == {}


def test_usage_is_the_sum_over_the_tree_and_nobody_elses() -> None:
    assert _open(FakeGpu(processes={10: 100, 11: 20, 99: 5_000})).usage({10, 11, 12}) == {"gpu:0": 120}


def test_a_process_that_computes_and_draws_counts_once() -> None:
    assert _open(FakeGpu(processes={10: 100}, drawing={10: 100, 11: 7})).usage({10, 11}) == {"gpu:0": 107}


def test_a_gpu_that_does_not_tell_is_left_out() -> None:
    assert _open(FakeGpu(processes={10: None}), FakeGpu(processes={10: 8})).usage({10}) == {"gpu:1": 8}


def test_pids_that_are_not_shown_leave_every_gpu_out() -> None:
    assert _open(FakeGpu(processes={99: 5}), FakeGpu()).usage({10}) == {}


def test_a_process_shown_on_one_gpu_holds_nothing_on_the_others() -> None:
    assert _open(FakeGpu(processes={10: 5}), FakeGpu()).usage({10}) == {"gpu:0": 5, "gpu:1": 0}


def test_a_gpu_whose_process_list_fails_is_left_out() -> None:
    broken = FakeGpu(process_error=pynvml.NVML_ERROR_NOT_SUPPORTED)
    assert _open(broken, FakeGpu(processes={10: 5})).usage({10}) == {"gpu:1": 5}


def test_close_shuts_nvml_down_once() -> None:
    nvml = FakeNvml([FakeGpu()])
    gpus = Gpus.open([0], None, nvml)
    gpus.close()
    gpus.close()
    assert nvml.opened == 0
