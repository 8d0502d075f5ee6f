"""What is kept from one token to the next: keys and values, recurrent states.

Sources (llama.cpp b11434): `src/llama-kv-cache.cpp` and `src/llama-kv-cache-iswa.cpp` (sizes and padding of both caches
of a model with windows), `src/llama-memory-recurrent.cpp`, `llama_model::create_memory` (which layers have what).
"""

from __future__ import annotations

from router.core.estimate.run import CACHE_TYPES, Run
from router.core.estimate.shape import Layer, Shape

_STATE_BYTES = 4  # recurrent states are f32


def window_cells(shape: Shape, run: Run) -> int:
    """Cells of one stream of the cache of the windowed layers."""
    cells, _ = run.cells(shape.train_ctx)
    if run.swa_full:
        return cells
    reach = shape.window * (run.slots if run.unified else 1) + effective_ubatch(shape, run)
    return -(-min(cells, reach) // 256) * 256


def effective_ubatch(shape: Shape, run: Run) -> int:
    """Tokens that are computed at once: with causal attention no more than the context."""
    cells, streams = run.cells(shape.train_ctx)
    batch = min(run.batch, cells * streams) if shape.causal else run.batch
    return min(batch, run.ubatch)


def layer_cache(shape: Shape, run: Run, layer: Layer) -> int:
    """Bytes of keys, values and states of one layer."""
    kept = 0
    if layer.attends and shape.caches:
        cells, streams = run.cells(shape.train_ctx)
        if layer.windowed:
            cells = window_cells(shape, run)
        kept += cells * streams * _row_bytes(run.type_k, layer.kv_heads * layer.head_k)
        if not shape.mla_rank:
            values = layer.kv_heads * layer.head_v
            if not run.flash:  # the transposed cache has rows of one width
                values = max(other.kv_heads * other.head_v for other in shape.layers)
            kept += cells * streams * _row_bytes(run.type_v, values)
    if layer.recurrent:
        kept += run.slots * (shape.state_r + shape.state_s) * _STATE_BYTES
    return kept


def checkpoint(shape: Shape, run: Run) -> int:
    """Bytes of one context checkpoint of a slot, in RAM: of what cannot be taken back token by token.

    That are the windows and the states; 0 for a model without. Source: `create_checkpoint` of `server-context.cpp`,
    `state_write` with `LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY` of both caches.
    """
    kept = 0
    for layer in shape.trunk:
        if layer.recurrent:
            kept += (shape.state_r + shape.state_s) * _STATE_BYTES
        elif layer.windowed and layer.attends and shape.caches and not run.swa_full:
            cells = min(shape.window, run.cells(shape.train_ctx)[0])
            rows = _row_bytes(run.type_k, layer.kv_heads * layer.head_k) + _row_bytes(
                run.type_v, layer.kv_heads * layer.head_v
            )
            kept += cells * rows
    return 0 if run.embedding else kept


def _row_bytes(kind: str, width: int) -> int:
    size, block = CACHE_TYPES[kind]
    return -(-width // block) * size
