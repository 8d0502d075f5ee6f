"""Layers that keep a state instead of keys and values.

Sources (llama.cpp b11434): `llm_graph_context::build_rs`, `src/models/mamba-base.cpp` (`build_mamba_layer`),
`src/models/delta-net-base.cpp` and `qwen35.cpp` (gated delta net, fused). Other recurrences take about what
Mamba takes.
"""

from __future__ import annotations

from router.core.estimate.graph import Graph, Tensor
from router.core.estimate.shape import Layer, Shape

_KERNEL = 4  # columns of the convolution; all known models have so many


def recur(graph: Graph, shape: Shape, layer: Layer, state: Tensor, *, slots: int) -> Tensor:
    """What such a layer makes of a state."""
    if layer.has("attn_gate.weight") and layer.has("attn_qkv.weight"):
        return _delta_net(graph, shape, layer, state, slots)
    return _mamba(graph, shape, layer, state, slots)


def _mamba(graph: Graph, shape: Shape, layer: Layer, state: Tensor, slots: int) -> Tensor:
    tokens, inner = state.shape[1], shape.inner or shape.embd
    entry = graph.matrix(state, layer.width("ssm_in.weight") or 2 * inner)
    mixed = graph.op((inner, tokens), _convolution(graph, shape, entry, inner, slots), graph.external())
    mixed = graph.op(mixed.shape, mixed, in_place=True)
    small = graph.matrix(mixed, max(1, layer.width("ssm_x.weight")))
    step = graph.op((inner, tokens), small)
    step = graph.op(step.shape, step, in_place=True)
    scanned = graph.op((inner * tokens + shape.state_s * slots,), graph.external(), mixed, step, small)
    graph.expand(graph.store(graph.external(), graph.view(scanned, -1)))
    result = graph.view(scanned, inner, tokens)
    gate = graph.op((inner, tokens), graph.view(entry, inner, tokens))
    skipped = graph.op((inner, tokens), mixed, in_place=True)
    result = graph.op((inner, tokens), result, skipped, in_place=True)
    return graph.matrix(graph.op((inner, tokens), gate, result), shape.embd)


def _delta_net(graph: Graph, shape: Shape, layer: Layer, state: Tensor, slots: int) -> Tensor:
    tokens, inner = state.shape[1], shape.inner or shape.embd
    width = layer.width("attn_qkv.weight")
    mixed = graph.matrix(state, width)
    gate = graph.matrix(state, layer.width("attn_gate.weight"))
    heads = max(1, layer.width("ssm_beta.weight"))
    beta = graph.op((heads, tokens), graph.view(graph.matrix(state, heads), heads, tokens), in_place=True)
    decay = graph.op((heads, tokens), graph.view(graph.matrix(state, heads), heads, tokens), in_place=True)
    columns = _convolution(graph, shape, mixed, width, slots)
    kept = graph.expand(graph.view(graph.op((shape.state_s, slots), graph.external()), -1))
    whole = graph.op((width, tokens), columns, graph.external())
    whole = graph.op(whole.shape, whole, in_place=True)
    keys = (max(0, width - inner) // 2, tokens)
    query, key = (graph.op(keys, graph.view(whole, *keys)) for _ in range(2))
    value = graph.view(whole, inner, tokens)
    scanned = graph.op((inner * tokens + shape.state_s * slots,), query, key, value, decay, beta, kept)
    graph.expand(graph.store(graph.external(), graph.view(scanned, -1)))
    normed = graph.norm(graph.view(scanned, inner, tokens))
    open_gate = graph.op((inner, tokens), graph.view(gate, inner, tokens), in_place=True)
    gated = graph.op((inner, tokens), normed, open_gate, in_place=True)
    return graph.matrix(graph.view(gated, inner, tokens), shape.embd)


def _convolution(graph: Graph, shape: Shape, source: Tensor, width: int, slots: int) -> Tensor:
    """The last columns of each sequence before the new ones; the last of both are kept."""
    kept = graph.op((shape.state_r, slots), graph.external())
    graph.expand(kept)
    columns = graph.op((source.shape[1] + (_KERNEL - 1) * slots, width), kept, graph.view(source, -1))
    graph.expand(graph.store(graph.external(), graph.view(columns, -1)))
    return columns
