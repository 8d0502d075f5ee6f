"""What a projector (`--mmproj`) computes in, for one image of its own size.

Source: llama.cpp b11434, `tools/mtmd/clip.cpp` (`build_inp`, `build_vit`, `build_attn`, and `warmup`, which allocates
the buffer at the load). Where images may be larger than that, the buffer grows with them.
"""

from __future__ import annotations

from collections.abc import Mapping

from router.core.estimate.graph import F16, Graph, Tensor

_MOST_PATCHES = 1 << 16
_MOST_WIDTH = 1 << 16


def projector_compute(metadata: Mapping[str, object]) -> int:
    """Bytes of its compute buffer; 0 where the header does not tell of images."""
    size, patch = _figure(metadata, "image_size"), _figure(metadata, "patch_size")
    width, inner = _figure(metadata, "embedding_length"), _figure(metadata, "feed_forward_length")
    patches = (size // patch) ** 2 if patch else 0
    if not (0 < patches <= _MOST_PATCHES and 0 < width <= _MOST_WIDTH and 0 < inner <= _MOST_WIDTH):
        return 0
    graph = Graph()
    pixels = graph.input(size, size, 3)
    columns = graph.op((patch * patch * 3, patches), pixels, width=F16)
    rows = graph.biased(graph.op((width, patches), graph.op((width, patches), columns)))
    hidden = graph.add(rows, graph.op(rows.shape, graph.external(), graph.input(patches)))
    for _ in range(2):  # from the second one on nothing changes
        hidden = _layer(graph, hidden, inner)
    hidden.kept = True
    graph.expand(hidden)
    return graph.reserve()


def _layer(graph: Graph, hidden: Tensor, inner: int) -> Tensor:
    width = hidden.shape[0]
    state = graph.norm(hidden, bias=True)
    query, key, value = (graph.biased(graph.matrix(state, width)) for _ in range(3))
    halves = [graph.op(tensor.shape, graph.view(tensor, *tensor.shape), width=F16) for tensor in (key, value)]
    attended = graph.op(hidden.shape, graph.view(query, *query.shape), *halves)
    hidden = graph.add(graph.biased(graph.matrix(attended, width)), hidden)
    raised = graph.biased(graph.matrix(graph.norm(hidden, bias=True), inner))
    raised = graph.op(raised.shape, raised, in_place=True)
    return graph.add(graph.biased(graph.matrix(raised, width)), hidden)


def _figure(metadata: Mapping[str, object], key: str) -> int:
    value = metadata.get(f"clip.vision.{key}")
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 20 else 0
