"""How the tumour's segmentation network is trained: the defaults of the phantom, and what changes them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from services.segmentation.network import Architecture
from services.shared.contracts import Contract


class TrainParameters(Contract):
    """How the network is trained; the defaults suit a dozen cases with 3 mm voxels and minutes on a processor.

    The paper: width 64, 200 epochs, learning rate 5e-4, patience 10, 1 mm voxels, background weight 1.
    """

    architecture: Architecture = Field(
        "recombination-unet-3d", description="residual-unet-3d is several times faster in use, at 3 levels"
    )
    width: Annotated[int, Field(ge=2, le=256)] = Field(16, description="Kernels of a convolution at full size")
    levels: Annotated[int, Field(ge=1, le=6)] = Field(4, description="Times that the network halves its size")
    normalisation: Literal["batch", "instance"] = "batch"
    epochs: Annotated[int, Field(ge=1)] = Field(40, description="Passes over the cases, at most")
    batch_size: Annotated[int, Field(ge=1)] = Field(1, description="Crops a step, over all processes")
    learning_rate: Annotated[float, Field(gt=0)] = Field(3e-3, description="Of Adam, at the start")
    schedule: Literal["cosine", "plateau"] = Field(
        "cosine", description="Learning rate: down to 0 along a cosine, or halved without improvement as in the paper"
    )
    patience: Annotated[int, Field(ge=0)] = Field(5, description="Epochs without improvement before it is halved")
    stop_after: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Epochs without a better Dice on the tuning cases after which training ends; none: never"
    )
    tuning_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(0.17, description="Share of cases to tune on")
    background_weight: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="Of background voxels in the cross-entropy; 1: as in the paper"
    )
    drop_sequence: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Share of crops that lose sequences at random; then a case may lack any but its last"
    )
    patch_voxels: Annotated[int, Field(ge=8)] = Field(48, description="Longest side of a training crop, voxels")
    crops_per_case: Annotated[int, Field(ge=1)] = Field(2, description="Crops of each case in an epoch")
    recompute: bool = Field(default=False, description="Compute blocks again for the gradient: less memory")
    loaders: Annotated[int, Field(ge=0, le=64)] = Field(
        0, description="Processes that make crops beside a GPU; their number changes no result"
    )
    memory_mb: Annotated[int, Field(ge=64)] = Field(2048, description="Memory for the network's features in tuning")
