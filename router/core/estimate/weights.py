"""Where the weights of a model go, and how many bytes of them.

Sources (llama.cpp b11434): `llama_model::load_tensors` (which layer lives on which device, which part of the file is
mapped), `llama_model_loader::create_tensor` (overrides, the copy of a tied output), `ggml/src/ggml-cpu/repack.cpp`
(weights that are rearranged for the CPU, which takes a copy of them).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from router.core.estimate.run import Run
from router.core.estimate.shape import Shape, StoredTensor, split_name

_ALIGNMENT = 32
_REPACKED_ROWS = 8  # rows are interleaved by eight
_EMBEDDINGS = ("token_embd.weight", "position_embd.weight", "token_types.weight", "per_layer_token_embd.weight")


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes on GPUs and in host RAM.

    Attributes:
        gpu_layers: the blocks on GPUs, and the output as one more.
        largest_layer: bytes on GPUs of the block that has most.
    """

    gpu: int
    host: int
    gpu_layers: int
    largest_layer: int = 0


def place_weights(
    files: Sequence[Sequence[StoredTensor]], shape: Shape, run: Run, *, gpu: bool, repacked: frozenset[str]
) -> Weights:
    """Bytes of the weights by place.

    Args:
        files: the tensors of each file, in the order in which they are stored.
        gpu: whether there is one.
        repacked: types that this machine's CPU wants rearranged.
    """
    count = len(shape.layers)
    wanted = count + 1 if run.gpu_layers is None else min(run.gpu_layers, count + 1)
    on_gpu = wanted if gpu else 0
    first = count + 1 - on_gpu
    has_output = any(tensor.name == "output.weight" for file in files for tensor in file)
    total_gpu = total_host = 0
    for file in files:
        stays = [tensor for tensor in file if not _offloaded(tensor, first, count, run)]
        total_gpu += sum(_padded(tensor.bytes) for tensor in file if _offloaded(tensor, first, count, run))
        total_host += _host_bytes(stays, run, repacked)
        tied = [tensor for tensor in file if tensor.name == "token_embd.weight" and not has_output]
        if tied and shape.caches:
            # The output matrix is the embeddings' again: a second copy, unless both are the same place.
            copies = sum(_padded(tensor.bytes) for tensor in tied)
            if on_gpu:
                total_gpu += copies
            elif run.repack and _repacks(tied[0], repacked):
                total_host += copies
    return Weights(total_gpu, total_host, on_gpu, _largest_layer(files, first, count, run) if on_gpu else 0)


def _largest_layer(files: Sequence[Sequence[StoredTensor]], first: int, count: int, run: Run) -> int:
    layers: Counter[int] = Counter()
    for tensor in (tensor for file in files for tensor in file if _offloaded(tensor, first, count, run)):
        block, _ = split_name(tensor.name)
        layers[count if block is None else block] += tensor.bytes
    return max(layers.values(), default=0)


def _offloaded(tensor: StoredTensor, first: int, count: int, run: Run) -> bool:
    for pattern, buffer in run.overrides:
        if _matches(pattern, tensor.name):
            return not buffer.startswith("CPU")
    block, name = split_name(tensor.name)
    if block is not None:
        return min(block, count) >= first
    return count >= first and name not in _EMBEDDINGS


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return False


def _host_bytes(stays: Iterable[StoredTensor], run: Run, repacked: frozenset[str]) -> int:
    """The mapped range of the file, from the first weight that is used as it lies to the last, and the rearranged."""
    plain, total = [], 0
    for tensor in stays:
        if run.repack and _repacks(tensor, repacked) and tensor.name not in _EMBEDDINGS:
            total += _padded(tensor.bytes)
        else:
            plain.append(tensor)
    if not plain:
        return total
    if not run.mmap:
        return total + sum(_padded(tensor.bytes) for tensor in plain)
    start = min(tensor.offset for tensor in plain)
    return total + max(tensor.offset + tensor.bytes for tensor in plain) - start


def _repacks(tensor: StoredTensor, repacked: frozenset[str]) -> bool:
    return tensor.type in repacked and len(tensor.shape) > 1 and tensor.shape[1] % _REPACKED_ROWS == 0


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
