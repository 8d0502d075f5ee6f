"""From a model's header and its flags to bytes per place and kind: what llama.cpp will say it took, before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from router.core.estimate.caches import effective_ubatch, layer_cache
from router.core.estimate.recipes import compute_graph
from router.core.estimate.run import Run
from router.core.estimate.shape import Shape, StoredTensor
from router.core.estimate.weights import place_weights

_MIB = 1024**2
_F32 = 4

# What a process with a CUDA context takes on each GPU besides its buffers: 250 to 500 MiB on cards of all sizes.
GPU_CONTEXT_BYTES = 400 * _MIB
# What llama-server itself takes in RAM: its code and libraries, its vocabulary, threads, HTTP.
PROCESS_BYTES = 40 * _MIB
# The same with CUDA: its libraries, the driver's buffers, staging buffers.
CUDA_PROCESS_BYTES = 400 * _MIB


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes in one place by kind.

    Attributes:
        weights: the model.
        cache: keys and values, recurrent states.
        compute: the buffer that a batch is computed in.
        output: logits and embeddings.
        growth: what the output grows by with the first full batch of an embedding model.
        process: code, libraries, driver contexts.
    """

    weights: int = 0
    cache: int = 0
    compute: int = 0
    output: int = 0
    growth: int = 0
    process: int = 0

    @property
    def total(self) -> int:
        return self.buffers + self.growth + self.process

    @property
    def buffers(self) -> int:
        """What llama.cpp reports after a load."""
        return self.weights + self.cache + self.compute + self.output


@dataclass(frozen=True, slots=True)
class Projection:
    """A model's memory on one GPU, and in host RAM.

    Attributes:
        each: bytes that every further GPU adds: its own context and compute buffer, and a layer, as none is cut.
    """

    gpu: Part
    host: Part
    each: int = 0


def project(
    files: Sequence[Sequence[StoredTensor]],
    shape: Shape,
    run: Run,
    *,
    gpu: bool = False,
    repacked: frozenset[str] = frozenset(),
) -> Projection:
    """Project the memory of one child.

    Args:
        files: the tensors of each file of the model.
        gpu: whether there is one.
        repacked: tensor types that the CPU wants rearranged (see `weights`).
    """
    weights = place_weights(files, shape, run, gpu=gpu, repacked=repacked)
    count = len(shape.layers)
    caches = [layer_cache(shape, run, layer) for layer in shape.trunk]
    first_on_gpu = count + 1 - weights.gpu_layers
    on_gpu = sum(caches[first_on_gpu:]) if run.offload_kv else 0
    graph = compute_graph(shape, run)
    whole = graph.reserve()
    output, growth = _output(shape, run)
    uses_gpu = weights.gpu_layers > 0
    all_on_gpu = first_on_gpu <= 0 and run.offload_kv and not run.overrides
    # Inputs and the rows of the embeddings are made in RAM; layers that stay there are computed there.
    rows = 3 * shape.embd * effective_ubatch(shape, run) * _F32
    host_compute = min(whole, graph.inputs() + rows) if uses_gpu and all_on_gpu else whole
    return Projection(
        gpu=Part(
            weights=weights.gpu,
            cache=on_gpu,
            compute=whole,
            process=GPU_CONTEXT_BYTES,
        )
        if uses_gpu
        else Part(),
        host=Part(
            weights=weights.host,
            cache=sum(caches) - on_gpu,
            compute=host_compute,
            output=output,
            growth=growth,
            process=CUDA_PROCESS_BYTES if uses_gpu else PROCESS_BYTES,
        ),
        each=whole + GPU_CONTEXT_BYTES + weights.largest_layer + max(caches, default=0) if uses_gpu else 0,
    )


def _output(shape: Shape, run: Run) -> tuple[int, int]:
    """Bytes of the output buffer at the start, and how much it grows. Source: `llama_context::output_reserve`."""
    row = (shape.vocab + (shape.embd if run.embedding else 0)) * _F32
    start = row * run.slots
    # An encoder, and everybody who wants embeddings, keeps a row for each token of a batch.
    full = row * effective_ubatch(shape, run) if run.embedding else 0
    return start, max(0, full - start)
