"""An imaging network as data: its architecture, and what it sees of a patient."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from services.shared.cohort import Region, Sequence
from services.shared.contracts import Contract

if TYPE_CHECKING:
    from torch import nn

    from services.model_serving.networks.residual import PooledNetwork

Architecture = Literal["risk_group", "grade", "grade_survival", "diffusion_survival", "slice_classifier"]
Task = Literal["classes", "survival", "both"]
DiffusionMap = Literal["FA", "MD", "AD", "RD"]
View = Literal["patch", "whole", "slice", "rectangle", "sections"]

_TASKS: dict[Architecture, Task] = {
    "risk_group": "classes",
    "grade": "classes",
    "grade_survival": "both",
    "diffusion_survival": "survival",
    "slice_classifier": "classes",
}
_VOLUMES = frozenset({"risk_group", "grade"})


class ImagingSpec(Contract):
    """Everything that decides a network's shape and its input; the weights are beside it.

    ``view`` says what is cut out: a ``patch`` about the region's centre, the ``whole`` brain, the axial ``slice`` with
    the largest area, the region's ``rectangle`` in that slice stretched to size, or equally spaced ``sections`` of
    the region's box, channel by channel from below upward. Channels are the sequences, then the diffusion maps.
    """

    architecture: Architecture
    width: Annotated[int, Field(ge=4, le=256)] = Field(64, description="Feature maps of the first block")
    excitation: bool = Field(default=True, description="Squeeze-and-excitation; of the grade network")
    source: Literal["prepared", "imported"] = Field("prepared", description="Volumes of the atlas, or as imported")
    view: View
    sequences: tuple[Sequence, ...] = ()
    maps: tuple[DiffusionMap, ...] = ()
    region: Region = Region.WT
    size: tuple[Annotated[int, Field(ge=16, le=512)], ...] = Field(description="Voxels along x, y (and z)")
    voxel_mm: Annotated[float, Field(gt=0)] | None = Field(1.0, description="Edge of a voxel; None: as stretched")
    sections: Annotated[int, Field(ge=1, le=32)] = Field(4, description="Slices of the view 'sections'")
    beyond: Literal["keep", "zero"] = Field("keep", description="Voxels of a patch that are not of the region")
    absent: Literal["refuse", "zero"] = Field("refuse", description="What a sequence that is not there becomes")
    classes: tuple[str, str] = Field(("negative", "positive"), description="Names of the two classes")

    @property
    def task(self) -> Task:
        """What the network says: classes, survival or both."""
        return _TASKS[self.architecture]

    @property
    def column_start(self) -> str:
        """What the columns of the network's deep features begin with: network and region."""
        return f"{self.architecture.replace('_', '')}_{self.region}"

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        each = len(self.sequences) + len(self.maps)
        return each * self.sections if self.view == "sections" else each

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Channels, then z, y, x (or y, x) of one patient's input."""
        return (self.channels, *self.size[::-1])

    @model_validator(mode="after")
    def _check(self) -> ImagingSpec:
        volume = self.architecture in _VOLUMES
        if volume != (self.view in ("patch", "whole")):
            raise ValueError(f"the network {self.architecture} cannot look at the view {self.view}")
        if len(self.size) != (3 if volume else 2):
            raise ValueError(f"size has {len(self.size)} numbers, expected {3 if volume else 2}")
        if not self.sequences and not self.maps:
            raise ValueError("a network needs a sequence or a diffusion map")
        if self.maps and self.view != "sections":
            raise ValueError("diffusion maps are seen in sections")
        if len(set(self.sequences)) < len(self.sequences) or len(set(self.maps)) < len(self.maps):
            raise ValueError("a channel is named twice")
        if self.voxel_mm is None and self.view in ("patch", "whole", "slice"):
            raise ValueError(f"the view {self.view} needs a voxel size")
        if self.classes[0] == self.classes[1]:
            raise ValueError("the two classes have one name")
        return self


PAPER_SPECS: dict[Architecture, ImagingSpec] = {
    "risk_group": ImagingSpec(
        architecture="risk_group",
        view="patch",
        sequences=(Sequence.T1, Sequence.T1C, Sequence.T2, Sequence.FLAIR),
        size=(96, 96, 96),
        beyond="zero",
        classes=("low", "high"),
    ),
    "grade": ImagingSpec(
        architecture="grade",
        view="patch",
        sequences=(Sequence.T1, Sequence.T1C, Sequence.T2),
        size=(96, 128, 96),
        classes=("LGG", "HGG"),
    ),
    "grade_survival": ImagingSpec(
        architecture="grade_survival",
        view="slice",
        sequences=(Sequence.T1, Sequence.T2, Sequence.T1C),
        size=(240, 240),
        classes=("II", "III"),
    ),
    "diffusion_survival": ImagingSpec(
        architecture="diffusion_survival",
        view="sections",
        maps=("FA", "MD", "AD", "RD"),
        size=(96, 96),
        voxel_mm=None,
    ),
    "slice_classifier": ImagingSpec(
        architecture="slice_classifier",
        source="imported",
        view="rectangle",
        sequences=(Sequence.T1, Sequence.FLAIR, Sequence.T1C),
        size=(96, 96),
        voxel_mm=None,
        absent="zero",
    ),
}
"""Each network as its paper describes it; the slice classifier is this platform's own."""


def build_network(spec: ImagingSpec) -> PooledNetwork:
    """Return an untrained network of a specification.

    Its output is a tensor of logits (batch, 2), log risks (batch,), or
    :class:`services.model_serving.networks.grade.GradeAndRisk`.
    """
    # Torch and MONAI take seconds to import: a specification does without them.
    from services.model_serving.networks.diffusion_survival import DiffusionSurvivalNetwork
    from services.model_serving.networks.grade import GradeNetwork, GradeSurvivalNetwork
    from services.model_serving.networks.risk_group import RiskGroupNetwork
    from services.model_serving.networks.slice_classifier import SliceClassifier

    if spec.architecture == "grade":
        return GradeNetwork(excitation=spec.excitation, channels=spec.channels, width=spec.width)
    kinds: dict[Architecture, Callable[..., PooledNetwork]] = {
        "risk_group": RiskGroupNetwork,
        "grade_survival": GradeSurvivalNetwork,
        "diffusion_survival": DiffusionSurvivalNetwork,
        "slice_classifier": SliceClassifier,
    }
    return kinds[spec.architecture](channels=spec.channels, width=spec.width)


LEAST_PLACES = 3
"""Places along each axis that feature maps need to tell where a network looked, as the papers' smallest have."""
_STRIDES = {"layer3": 16, "layer2": 8, "layer1": 4}


def feature_layer(network: nn.Module, size: tuple[int, ...] | None = None) -> nn.Module:
    """Return the part of an imaging network whose output holds its last feature maps.

    Parameters
    ----------
    size
        Voxels of the input along each axis: where the last maps of so small an input have fewer than
        :data:`LEAST_PLACES` places along an axis, the last maps that have them are meant.
    """
    from services.model_serving.networks.grade import GradeNetwork
    from services.model_serving.networks.residual import ResidualTrunk

    trunk = network.get_submodule("trunk")
    assert isinstance(trunk, ResidualTrunk)
    smallest = min(size) if size is not None else None
    if smallest is None or -(-smallest // 32) >= LEAST_PLACES:
        return network.excitation if isinstance(network, GradeNetwork) else trunk.body.get_submodule("layer4")
    chosen = next((name for name, stride in _STRIDES.items() if -(-smallest // stride) >= LEAST_PLACES), "layer1")
    return trunk.body.get_submodule(chosen)
