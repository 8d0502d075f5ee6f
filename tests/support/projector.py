"""A projector by which a small model sees pictures: as little of CLIP and LLaVA as llama.cpp loads, made-up weights."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import gguf
import numpy as np

_SIDE, _PATCH, _WIDTH = 28, 14, 32  # pixels, pixels, numbers to a patch
_PATCHES = (_SIDE // _PATCH) ** 2
_COUNTS = {
    "image_size": _SIDE,
    "patch_size": _PATCH,
    "embedding_length": _WIDTH,
    "feed_forward_length": _WIDTH,
    "projection_dim": _WIDTH,
    "block_count": 1,  # LLaVA leaves out the last block, so none is computed
    "attention.head_count": 2,
}


def write_projector(file: Path, *, embd: int = 64) -> Path:
    """Write one for a model of this embedding length."""
    shapes = {
        "v.patch_embd.weight": (_WIDTH, 3, _PATCH, _PATCH),
        "v.position_embd.weight": (_PATCHES, _WIDTH),
        "v.blk.0.attn_out.weight": (_WIDTH, _WIDTH),
        "v.blk.0.ffn_up.weight": (_WIDTH, _WIDTH),
        "v.blk.0.ffn_down.weight": (_WIDTH, _WIDTH),
        "mm.0.weight": (embd, _WIDTH),
        "mm.0.bias": (embd,),
        "mm.2.weight": (embd, embd),
        "mm.2.bias": (embd,),
    }
    with closing(gguf.GGUFWriter(file, "clip")) as writer:
        writer.add_string("clip.projector_type", "mlp")
        writer.add_bool("clip.has_vision_encoder", True)
        writer.add_file_type(gguf.LlamaFileType.ALL_F32)
        for key, count in _COUNTS.items():
            writer.add_uint32(f"clip.vision.{key}", count)
        writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
        for key in ("image_mean", "image_std"):
            writer.add_array(f"clip.vision.{key}", [0.5, 0.5, 0.5])
        for name, shape in shapes.items():
            writer.add_tensor(name, np.full(shape, 0.01, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    return file
