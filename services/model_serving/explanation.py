"""Where a network looks: class activation maps in two and three dimensions, and what lies inside them.

Grad-CAM (Selvaraju et al., ICCV 2017): each of the last feature maps is weighted by the mean gradient of the output
that is explained; the weighted sum, cut at zero, is enlarged to the input. For a network whose averaged features go
through one linear layer this is the class activation map of Zhou et al. (CVPR 2016) up to its scale.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from services.shared.errors import InvalidValue

Array = npt.NDArray[np.float32]


def class_activation(
    network: nn.Module, inputs: torch.Tensor, *, layer: nn.Module, target: Callable[[Any], torch.Tensor]
) -> Array:
    """Return how much each place of each input speaks for an output, between 0 and 1.

    Parameters
    ----------
    network
        In evaluation mode; its weights need no gradient.
    inputs
        Shape (batch, channels, …).
    layer
        The part of the network whose output holds the feature maps, shape (batch, features, …).
    target
        What is explained: from the network's output to one number a patient, shape (batch,).

    Returns
    -------
    numpy.ndarray
        Shape (batch, …) like the inputs; 0 everywhere where nothing speaks for the output.

    Raises
    ------
    InvalidValue
        Where the layer takes no part in the output.
    """
    kept: list[torch.Tensor] = []

    def keep(_module: nn.Module, _given: object, maps: torch.Tensor) -> torch.Tensor:
        held = maps.clone()
        held.requires_grad_()
        kept.append(held)
        return held

    handle = layer.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            explained = target(network(inputs))
            if not kept:
                raise InvalidValue(
                    "the layer takes no part in the output", field="layer", expected="a layer that the network runs"
                )
            (gradient,) = torch.autograd.grad(explained.sum(), kept[-1], allow_unused=True)
    finally:
        handle.remove()
    if gradient is None:
        raise InvalidValue(
            "the output does not depend on the layer", field="layer", expected="a layer before the explained output"
        )
    maps = kept[-1].detach()
    weights = gradient.flatten(2).mean(dim=2)
    found = functional.relu(torch.einsum("bk...,bk->b...", maps, weights))[:, None]
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[found.ndim - 2]
    large = functional.interpolate(found, size=inputs.shape[2:], mode=mode, align_corners=False)[:, 0]
    peak = large.flatten(1).amax(dim=1).reshape(-1, *(1,) * (large.ndim - 1))
    result: Array = torch.where(peak > 0, large / peak.clamp_min(torch.finfo(peak.dtype).tiny), large).cpu().numpy()
    return result


def highlighted(activation: Array, *, level: float = 0.5) -> npt.NDArray[np.bool_]:
    """Return where an activation reaches a share of its peak; nowhere where it is 0 throughout."""
    return np.asarray((activation >= level) & (activation > 0))


def means_inside(region: npt.NDArray[np.bool_], maps: Mapping[str, Array]) -> dict[str, float | None]:
    """Return each map's mean inside a highlighted region, None where it is empty (EBioMedicine 2021, 103583, 2.7)."""
    return {name: float(values[region].mean()) if region.any() else None for name, values in maps.items()}


def draw_overlay(
    image: Array,
    activation: Array,
    *,
    outline: npt.NDArray[np.bool_] | None = None,
    strength: float = 0.6,
    least_pixels: int = 480,
) -> bytes:
    """Return a PNG of a slice in grey with the activation over it, from dark red to yellow.

    Parameters
    ----------
    image, activation
        Shape (rows, columns), row 0 on top; the activation between 0 and 1.
    outline
        What is outlined in light blue, same shape; nothing where it is None.
    strength
        How much the colour covers at an activation of 1.
    least_pixels
        The picture is enlarged by a whole factor until its longer side has as many.
    """
    from PIL import Image

    factor = max(1, -(-least_pixels // max(image.shape)))
    size = (image.shape[1] * factor, image.shape[0] * factor)

    def enlarged(values: Array) -> Array:
        found: Array = np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
        return found

    low, high = (float(q) for q in np.percentile(image, (1, 99)))
    grey = np.clip((enlarged(image) - low) / max(high - low, 1e-6), 0, 1)[..., None]
    heat = np.clip(enlarged(activation), 0, 1)[..., None]
    colour = np.concatenate([np.clip(2 * heat, 0, 1), np.clip(2 * heat - 1, 0, 1), np.zeros_like(heat)], axis=2)
    cover = strength * heat
    shown = (1 - cover) * grey + cover * colour
    if outline is not None:
        inside = enlarged(outline.astype(np.float32)) >= 0.5
        shown[inside & ~_shrunk(inside, max(1, factor // 4))] = _OUTLINE
    content = io.BytesIO()
    Image.fromarray(np.rint(255 * shown).astype(np.uint8)).save(content, format="PNG")
    return content.getvalue()


_OUTLINE = (0.34, 0.71, 0.91)


def _shrunk(mask: npt.NDArray[np.bool_], pixels: int) -> npt.NDArray[np.bool_]:
    """Return a mask less its margin along both axes."""
    found = mask.copy()
    for axis in (0, 1):
        for step in range(1, pixels + 1):
            for shift in (-step, step):
                found &= np.roll(mask, shift, axis=axis)
    return found
