"""The half of a layer that looks at each token alone: dense, or a mixture of experts.

Source: llama.cpp b11434, `src/llama-graph.cpp` (`build_ffn`, `build_moe_ffn`).
"""

from __future__ import annotations

from router.core.estimate.graph import Graph, Tensor
from router.core.estimate.shape import Layer, Shape

_NAMES = ("ffn_up", "ffn_down", "ffn_up_exps", "ffn_gate_up_exps")


def feeds(layer: Layer) -> bool:
    """Whether the layer has such a half."""
    return any(layer.has(f"{name}.weight") for name in _NAMES)


def feed(graph: Graph, shape: Shape, layer: Layer, state: Tensor) -> Tensor:
    """What it makes of a state."""
    if not (layer.has("ffn_gate_inp.weight") and shape.experts):
        return _dense(graph, shape, layer, state, "")
    fed = _experts(graph, shape, layer, state)
    if layer.has("ffn_up_shexp.weight"):
        fed = graph.add(fed, _dense(graph, shape, layer, state, "_shexp"))
    return fed


def _dense(graph: Graph, shape: Shape, layer: Layer, state: Tensor, suffix: str) -> Tensor:
    width = layer.width(f"ffn_up{suffix}.weight")
    up = graph.biased(graph.matrix(state, width), layer.has(f"ffn_up{suffix}.bias"))
    if layer.has(f"ffn_gate{suffix}.weight"):
        gate = graph.biased(graph.matrix(state, width), layer.has(f"ffn_gate{suffix}.bias"))
        act = graph.op(up.shape, gate, up)
    elif layer.tensors.get(f"ffn_down{suffix}.weight", (width,))[0] * 2 == width:  # gate and up in one matrix
        act = graph.op((width // 2, up.shape[1]), up)
    else:
        act = graph.op(up.shape, up, in_place=True)
    return graph.biased(graph.matrix(act, shape.embd), layer.has(f"ffn_down{suffix}.bias"))


def _experts(graph: Graph, shape: Shape, layer: Layer, state: Tensor) -> Tensor:
    tokens, used = state.shape[1], shape.experts_used
    chosen, weights = _choice(graph, shape, state)
    act = _activation(graph, layer, graph.view(state, shape.embd, 1, tokens), chosen, used)
    parts = graph.op((shape.embd, used, tokens), graph.external(), act, chosen)
    parts = graph.expand(graph.op(parts.shape, parts, weights, in_place=True))
    views = [graph.expand(graph.view(parts, shape.embd, tokens)) for _ in range(used)]
    if used < 2:
        return graph.op((shape.embd, tokens), *views)
    result = views[0]
    for view in views[1:]:
        # The first sum has a view on its left, whose place cannot be taken over.
        result = graph.expand(graph.op((shape.embd, tokens), result, view, in_place=result is not views[0]))
    return result


def _choice(graph: Graph, shape: Shape, state: Tensor) -> tuple[Tensor, Tensor]:
    """(experts of each token, their weights)."""
    tokens, used = state.shape[1], shape.experts_used
    probs = graph.op((shape.experts, tokens), graph.matrix(state, shape.experts), in_place=True)
    chosen = graph.view(graph.op(probs.shape, probs), used, tokens)
    weights = graph.op((1, used, tokens), graph.view(probs, 1, shape.experts, tokens), chosen)
    flat = graph.view(weights, used, tokens)
    total = graph.op((1, tokens), graph.op((1, tokens), flat), in_place=True)
    return chosen, graph.expand(graph.view(graph.op(flat.shape, flat, total, in_place=True), 1, used, tokens))


def _activation(graph: Graph, layer: Layer, state: Tensor, chosen: Tensor, used: int) -> Tensor:
    tokens = state.shape[2]
    if layer.has("ffn_gate_up_exps.weight"):
        both = layer.width("ffn_gate_up_exps.weight")
        merged = graph.op((both, used, tokens), graph.external(), state, chosen)
        return graph.op((both // 2, used, tokens), graph.view(merged, -1))
    wide = (layer.width("ffn_up_exps.weight"), used, tokens)
    up = graph.op(wide, graph.external(), state, chosen)
    if not layer.has("ffn_gate_exps.weight"):
        return graph.op(wide, up, in_place=True)
    return graph.op(wide, graph.op(wide, graph.external(), state, chosen), up)
