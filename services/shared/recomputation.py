"""Training with less memory: a layer's inner features are computed again for the gradient instead of kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recomputed(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return a layer's output, keeping only its ends for the gradient: less memory, a third more time, same result."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _running_statistics_kept(layer)

    found: torch.Tensor = checkpoint(layer, x, use_reentrant=False, context_fn=contexts)
    return found


@contextmanager
def _running_statistics_kept(layer: nn.Module) -> Iterator[None]:
    """Keep a second pass over the same batch from counting twice in the running means of batch normalisation."""
    norms = [module for module in layer.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.sub_(1)
