"""Why a child ended, in a sentence."""

import pytest

from router.backends.exit_reason import exhausted, exit_reason, telling_line
from router.backends.oom import OomEvidence
from router.core.types import DeviceKind, Exhaustion

CORRUPT = (
    "0.00.004.450 E common_fit_params: encountered an error while trying to fit params to free device memory",
    "0.00.004.556 E llama_model_load: error loading model: tensor 'a', model is corrupted or incomplete",
    "0.00.004.559 I srv    operator(): operator(): cleaning up before exit...",
    "0.00.005.225 E srv          init: exiting due to model loading error",
)


@pytest.mark.parametrize(
    ("lines", "telling"),
    [
        (
            CORRUPT,
            "llama_model_load: error loading model: tensor 'a', model is corrupted or incomplete",
        ),
        (("ggml_backend_cuda_buffer: cudaMalloc failed: out of memory", "failed to load"), None),
        (
            ("x", "alloc_tensor_range: failed to allocate CPU buffer of size 9", "main: error"),
            "alloc_tensor_range: failed",
        ),
        (("start: couldn't bind HTTP server socket, hostname: 127.0.0.1", "error loading model"), None),
        (("error: invalid argument: --bogus", "see --help"), None),
        (("all is well", "until the failure", "bye"), "until the failure"),
        (("all is well", "bye"), ""),
        ((), ""),
    ],
)
def test_the_telling_line(lines: tuple[str, ...], telling: str | None) -> None:
    found = telling_line(lines)
    assert found.startswith(lines[0] if telling is None else telling)
    assert bool(found) == (telling != "")


@pytest.mark.parametrize(
    ("code", "lines", "reason"),
    [
        (1, ("error: no",), "llama-server exited with code 1: error: no"),
        (1, ("bye",), "llama-server exited with code 1: bye"),
        (1, (), "llama-server exited with code 1 and said nothing"),
        (0, (), "llama-server exited with code 0, though nobody had asked it to end"),
        (-9, ("slot idle",), "llama-server was killed by SIGKILL (out of memory?)"),
        (137, (), "llama-server was killed by SIGKILL (out of memory?) and said nothing"),
        (-6, ("CUDA error: an illegal access",), "llama-server was killed by SIGABRT: CUDA error: an illegal access"),
        (-11, (), "llama-server was killed by SIGSEGV and said nothing"),
    ],
)
def test_the_sentence(code: int, lines: tuple[str, ...], reason: str) -> None:
    assert exit_reason(code, lines) == reason


def test_an_end_that_was_asked_for_is_no_failure() -> None:
    assert (
        exit_reason(-15, ("error: x",), asked=True) == "llama-server was stopped by the router (was killed by SIGTERM)"
    )


def test_a_long_line_is_cut() -> None:
    assert len(telling_line(["error: " + "x" * 10_000])) < 400


def test_our_own_kill_is_not_taken_for_a_lack_of_memory() -> None:
    assert exit_reason(-9, ("busy",), asked=True) == "llama-server was stopped by the router (was killed by SIGKILL)"


@pytest.mark.parametrize(
    ("oom", "said", "short"),
    [
        (OomEvidence.LOGGED, "SIGKILL: out of memory, as the kernel's log says", True),
        (OomEvidence.COUNTED_IN_CGROUP, "SIGKILL: out of memory, by its cgroup's count", True),
        (OomEvidence.COUNTED, "SIGKILL: probably out of memory, by the kernel's count", True),
        (OomEvidence.UNKNOWN, "SIGKILL (out of memory?)", True),
        (OomEvidence.NOT, "SIGKILL (not for lack of memory: the kernel has counted no OOM kill)", False),
    ],
)
def test_a_kill_for_memory_is_named_as_surely_as_it_is_known(oom: OomEvidence, said: str, short: bool) -> None:
    assert said in exit_reason(-9, ("busy",), oom=oom)
    assert (exhausted(-9, ("busy",), oom=oom) is not None) is short
    assert "memory" not in exit_reason(-11, ("busy",), oom=oom)


def test_our_own_probe_is_not_the_reason() -> None:
    lines = ("0.01.946.828 W srv    operator(): unauthorized: Invalid API Key",)
    assert exit_reason(-9, lines) == "llama-server was killed by SIGKILL (out of memory?)"


@pytest.mark.parametrize(
    ("code", "lines", "found"),
    [
        (1, ("alloc_tensor_range: failed to allocate CPU buffer of size 9000", "x"), Exhaustion(DeviceKind.HOST, 9000)),
        (
            1,
            (
                "alloc_buffer: allocating 1.50 MiB on device 0: cudaMalloc failed: out of memory",
                "alloc_tensor_range: failed to allocate CUDA0 buffer of size 1572000",
            ),
            Exhaustion(DeviceKind.GPU, 1572864),
        ),
        (1, ("unable to allocate CUDA1 buffer",), Exhaustion(DeviceKind.GPU)),
        (1, ("failed to allocate CUDA_Host buffer of size 7",), Exhaustion(DeviceKind.HOST, 7)),
        (-6, ("terminate called after throwing an instance of 'std::bad_alloc'",), Exhaustion(DeviceKind.HOST)),
        (-9, ("loading",), Exhaustion(DeviceKind.HOST)),
        (137, (), Exhaustion(DeviceKind.HOST)),
        (1, CORRUPT, None),
        (0, ("failed to allocate",), None),
    ],
)
def test_whether_it_ran_out_of_memory(code: int, lines: tuple[str, ...], found: Exhaustion | None) -> None:
    assert exhausted(code, lines) == found
