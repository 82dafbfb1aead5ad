"""How transformers run here: on which cores, on which texts."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray


def as_texts(values: NDArray[np.generic]) -> list[str]:
    """Return texts; a missing one is empty."""
    return ["" if value is None or value != value else str(value) for value in values.tolist()]


@contextmanager
def all_threads(threads: int) -> Iterator[None]:
    """Use several torch threads for the length of a block; 0 is as many as there are cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
