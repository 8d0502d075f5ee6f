"""What a child says about its memory."""

from __future__ import annotations

import pytest

from router.backends.memory_lines import Buffer, LoadLines, buffers, plain, projection

MIB = 1024**2


def test_buffer_lines() -> None:
    lines = [
        "0.00.009.596 I load_tensors:   CPU_Mapped model buffer size =    34.75 MiB",
        "load_tensors:        CUDA0 model buffer size =  1024.00 MiB",
        "llama_kv_cache:        CPU KV buffer size =    32.00 MiB",
        "llama_kv_cache: size =   32.00 MiB (  8192 cells,   8 layers,  4/1 seqs)",
        "llama_context:        CPU  output buffer size =     0.50 MiB",
        "sched_reserve:  CUDA_Host compute buffer size =    19.00 MiB",
        "llama_memory_recurrent:        CPU RS buffer size =     2.00 MiB",
        "somebody typed: model buffer size = 1.0 MiB",
    ]
    assert buffers(lines) == (
        Buffer("CPU_Mapped", "weights", round(34.75 * MIB)),
        Buffer("CUDA0", "weights", 1024 * MIB),
        Buffer("CPU", "cache", 32 * MIB),
        Buffer("CPU", "output", MIB // 2),
        Buffer("CUDA_Host", "compute", 19 * MIB),
        Buffer("CPU", "cache", 2 * MIB),
    )
    assert [buffer.on_host for buffer in buffers(lines)] == [True, False, True, True, True, True]


def test_the_projection() -> None:
    line = (
        '{"type":"fit_memory_breakdown","data":{"unit":"MiB","rows":['
        '{"kind":"device","name":"CUDA0","total":100,"free":90,"self":64,"model":40,"context":20,"compute":4},'
        '{"kind":"host","name":"Host","self":65,"model":34,"context":16,"compute":15}]}}'
    )
    assert projection(line) == (64 * MIB, 65 * MIB)


@pytest.mark.parametrize(
    "line", ["", "{}", '{"type":"fit_memory_breakdown"', '{"type":"fit_memory_breakdown","data":{"rows":[{"kind":1}]}}']
)
def test_other_lines_say_nothing(line: str) -> None:
    assert projection(line) is None


def test_json_lines_read_as_plain_ones() -> None:
    line = '{"type":"log","time":61007480,"level":"error","msg":"srv    load_model: \\"x\\"\\n"}'
    assert plain(line) == '1.01.007.480 E srv    load_model: "x"'


@pytest.mark.parametrize("line", ["", "a line", '{"type":"log"', '{"type":"log","time":"x"}', '{"type":"metric"}'])
def test_other_lines_stay_as_they_are(line: str) -> None:
    assert plain(line) == line


def test_a_load_step_by_step() -> None:
    load, allocated = LoadLines(), []
    for mib in (14, 28, 9):  # as trained, for all slots, and the shortest that the fit would go down to
        load.read(
            f'{{"type":"fit_memory_breakdown","data":{{"unit":"MiB","rows":[{{"kind":"device","name":"CUDA0","self":{mib}}},'
            '{"kind":"host","name":"Host","self":1}]}}'
        )
    assert load.projected == (28 * 1024**2, 1024**2)
    load.read("common_params_fit_impl: context size reduced from 131072 to 8192 -> need 900 MiB less memory in total")
    load.read("load_tensors: offloaded 12/33 layers to GPU")
    allocated.append(load.allocated)
    load.read("0.00.018.938 I cmn          init: llama threadpool init, n_threads = 1")
    allocated.append(load.allocated)
    load.read("load_tensors: offloaded 1/2 layers to GPU")  # what it says later is of no load
    assert allocated == [False, True]
    assert load.cut == (
        "the context was shortened from 131,072 to 8,192 tokens; 12 of 33 layers are on the GPU, the others in RAM"
    )


def test_a_load_that_was_not_cut() -> None:
    load = LoadLines()
    load.read("load_tensors: offloaded 33/33 layers to GPU")
    assert load.cut == ""
