"""How imaging networks are trained: the numbers of their papers, and what a study or a small machine changes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from services.model_serving.networks.specification import PAPER_SPECS, Architecture, ImagingSpec, View
from services.shared.cohort import Region, Sequence
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
    start_kind: Literal["imagenet", "self-supervised"] = Field("imagenet", description="What these weights learnt from")


PAPER_PARAMETERS: dict[Architecture, ImagingTrainParameters] = {
    "risk_group": ImagingTrainParameters(),
    "grade": ImagingTrainParameters(epochs=200),
    "grade_survival": ImagingTrainParameters(epochs=200),
    "diffusion_survival": ImagingTrainParameters(epochs=100, batch=64),
    "slice_classifier": ImagingTrainParameters(epochs=60, batch=16, learning_rate=3e-4),
}
"""Batch 8 and 70 or 200 epochs are the papers'; a learning rate other than the first is not stated by them, and
nothing is of the diffusion network, whose batch is as large as a GPU takes."""


class ImagingTraining(Contract):
    """The section ``train_imaging``: what differs from the paper of the network that is trained; see its defaults.

    Fields from ``region`` to ``absent`` say what the network sees (:class:`ImagingSpec`), those from ``epochs`` on how
    it learns (:class:`ImagingTrainParameters`); one that is left out is the paper's.
    """

    folds: Annotated[int, Field(ge=0, le=20)] | None = Field(
        None, description="Of the cross-validation by patient, those of the study; 0: none [default: 3 or 5, as papers]"
    )
    outcome: str | None = Field(None, description="What the slice classifier tells: atrx, idh, mgmt or lower_grade")
    region: Region | None = None
    view: View | None = None
    size: tuple[int, ...] | None = Field(None, description="Voxels along x, y (and z)")
    voxel_mm: float | None = Field(None, description="Edge of a voxel of the input")
    width: int | None = Field(None, description="Feature maps of the first block; 64 in the papers")
    excitation: bool | None = Field(None, description="Squeeze-and-excitation of the grade network")
    sections: int | None = None
    beyond: Literal["keep", "zero"] | None = None
    source: Literal["prepared", "imported"] | None = None
    sequences: tuple[Sequence, ...] | None = None
    absent: Literal["refuse", "zero"] | None = None
    epochs: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    flips: bool | None = None
    imbalance: Literal["none", "sampler", "logit_adjustment"] | None = None
    survival_loss: Literal["cox", "mse"] | None = None
    survival_weight: float | None = None
    tuning_fraction: float | None = None
    patience: int | None = None
    recompute: bool | None = None
    start: Key | None = None
    start_kind: Literal["imagenet", "self-supervised"] | None = None

    def spec(self, architecture: Architecture, *, classes: tuple[str, str] | None = None) -> ImagingSpec:
        """Return what a network of this architecture sees; ``classes`` names what it tells apart.

        Another voxel size without another ``size`` keeps the paper's millimetres: the input has fewer voxels. It says
        nothing to a network whose input is stretched to its size.
        """
        paper, given = PAPER_SPECS[architecture], self._given(ImagingSpec)
        if paper.voxel_mm is None and "view" not in given:
            given.pop("voxel_mm", None)
        elif paper.voxel_mm is not None and self.voxel_mm is not None and self.size is None:
            given["size"] = tuple(max(16, round(n * paper.voxel_mm / self.voxel_mm)) for n in paper.size)
        named = {} if classes is None else {"classes": classes}
        return ImagingSpec.model_validate(paper.model_dump() | given | named)

    def parameters(self, architecture: Architecture) -> ImagingTrainParameters:
        """Return how it is trained."""
        paper = PAPER_PARAMETERS[architecture].model_dump()
        return ImagingTrainParameters.model_validate(paper | self._given(ImagingTrainParameters))

    def fold_count(self, architecture: Architecture) -> int:
        """Return how many folds the cross-validation has."""
        return PAPER_FOLDS[architecture] if self.folds is None else self.folds

    def _given(self, kind: type[Contract]) -> dict[str, object]:
        return {
            name: value
            for name, value in self.model_dump(exclude_unset=True).items()
            if name in kind.model_fields and value is not None
        }


PAPER_FOLDS: dict[Architecture, int] = {
    "risk_group": 3,
    "grade": 5,
    "grade_survival": 5,
    "diffusion_survival": 5,
    "slice_classifier": 5,
}
"""Three folds are the paper's; where a paper has one split, a cross-validation takes its place."""
