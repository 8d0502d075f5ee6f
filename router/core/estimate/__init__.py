"""What a model will take, before it has ever been loaded.

`projection` follows llama.cpp's own arithmetic from the GGUF header and the flags; `by_size` is for files that cannot
be read.
"""

from router.core.estimate.by_size import estimate, uses_gpu
from router.core.estimate.caches import checkpoint
from router.core.estimate.pin import read_pin
from router.core.estimate.projection import Part, Projection, project
from router.core.estimate.projector import projector_compute
from router.core.estimate.run import MOST_CHECKPOINTS, Run, memory_flags, read_run
from router.core.estimate.shape import Shape, StoredTensor, read_shape

__all__ = [
    "MOST_CHECKPOINTS",
    "Part",
    "Projection",
    "Run",
    "Shape",
    "StoredTensor",
    "checkpoint",
    "estimate",
    "memory_flags",
    "project",
    "projector_compute",
    "read_pin",
    "read_run",
    "read_shape",
    "uses_gpu",
]
