"""How imaging networks are trained: the numbers of their papers, and what a study or a small machine changes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from services.model_serving.networks.specification import Architecture
from services.shared.contracts import Contract, Key


class ImagingTrainParameters(Contract):
    """How an imaging network is trained; the defaults are those of the ferroptosis risk group's network."""

    epochs: Annotated[int, Field(ge=1)] = Field(70, description="Passes over the patients, at most")
    batch: Annotated[int, Field(ge=2)] = Field(8, description="Patients of a batch; risk sets are those of a batch")
    learning_rate: Annotated[float, Field(gt=0)] = Field(1e-4, description="Of Adam, constant")
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    flips: bool = Field(default=True, description="Mirror each patient along each axis at random, every epoch anew")
    imbalance: Literal["none", "sampler", "logit_adjustment"] = Field(
        "none", description="Rare classes: as they come (the papers), drawn as often, or by adjusted logits"
    )
    survival_loss: Literal["cox", "mse"] = Field("cox", description="Partial likelihood, or error of log months")
    survival_weight: Annotated[float, Field(ge=0)] = Field(1.0, description="Of survival beside classes")
    tuning_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.2, description="Share of the training patients that choose the epoch; 0: the last epoch counts"
    )
    patience: Annotated[int, Field(ge=1)] = Field(20, description="Epochs without a better one before training ends")
    recompute: bool = Field(default=False, description="Compute blocks again for the gradient: less memory")
    start: Key | None = Field(None, description="ResNet weights with torchvision's names, .npz or .safetensors")


PAPER_PARAMETERS: dict[Architecture, ImagingTrainParameters] = {
    "risk_group": ImagingTrainParameters(),
    "grade": ImagingTrainParameters(epochs=200),
    "grade_survival": ImagingTrainParameters(epochs=200),
    "diffusion_survival": ImagingTrainParameters(epochs=100, batch=64),
    "slice_classifier": ImagingTrainParameters(epochs=60, batch=16, learning_rate=3e-4),
}
"""Batch 8 and 70 or 200 epochs are the papers'; a learning rate other than the first is not stated by them, and
nothing is of the diffusion network, whose batch is as large as a GPU takes."""
