"""What the segmentation service accepts and returns."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from services.shared.cohort import Region, Sequence
from services.shared.contracts import CaseRef, Contract, Key

DEFAULT_MODEL: Key = "models/segmentation"
DEFAULT_ABNORMALITY_MODEL: Key = "models/flair-abnormality"


class SegmentParameters(Contract):
    """How a case is segmented."""

    source: Literal["auto", "expert", "network"] = Field(
        "auto", description="auto takes the expert's segmentation where the case has one, else the network"
    )
    model: Key | None = Field(None, description=f"Folder of the trained network; none is {DEFAULT_MODEL}")
    min_component_mm3: Annotated[float, Field(ge=0)] = Field(
        100.0, description="Smallest connected part that the network's segmentation keeps, cubic millimetres"
    )
    fill_holes: bool = Field(
        default=False, description="Fill cavities that the tumour closes in, with core inside core, else oedema"
    )
    min_enhancing_mm3: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Smallest volume of all enhancing tumour; where there is less, it is necrotic core"
    )
    test_time_flips: bool = Field(
        default=False, description="Mean probabilities over the eight mirrored inputs; eight times the work"
    )
    uncertainty: bool = Field(
        default=False, description="Write each voxel's entropy, and with flips their mutual information"
    )
    memory_mb: Annotated[int, Field(ge=64)] = Field(
        2048, description="Memory for the network's features; a larger brain is segmented window by window"
    )
    threads: Annotated[int, Field(ge=1)] = Field(1, description="Processor cores for one case")


class SegmentRequest(Contract):
    """Segment one prepared case."""

    case: CaseRef
    parameters: SegmentParameters = SegmentParameters()


class Finding(Contract):
    """What a segmentation says, and where it comes from. No tumour found is an answer, not an error."""

    source: Literal["expert", "network"]
    tumour_found: bool
    volumes_ml: dict[Region, float]
    dice: dict[Region, float | None] | None = Field(
        None, description="Network against expert, where both exist; none for a region absent from both"
    )
    model_sha256: str | None = Field(None, description="SHA-256 of the network's weights")
    missing_sequences: tuple[Sequence, ...] = Field((), description="Sequences that the network had to do without")
    expected_dice: dict[Region, float | None] | None = Field(
        None, description="Dice that the network's probabilities let expect, not calibrated; none for an empty region"
    )
    passes: Literal["one", "windows"] | None = Field(None, description="How the network read the brain")
    notes: tuple[str, ...] = Field((), description="What was out of the ordinary")


class SegmentResult(Finding):
    """A finding and where its segmentation lies."""

    case: CaseRef
    cached: bool
    segmentation: Key
    entropy: Key | None = Field(None, description="Entropy of each voxel's class probabilities, nats")
    mutual_information: Key | None = Field(None, description="What mirrored inputs disagree about, nats")
    seconds: float


class AbnormalityParameters(Contract):
    """How the FLAIR abnormality is outlined."""

    model: Key = Field(DEFAULT_ABNORMALITY_MODEL, description="Folder of the trained slice network")
    threshold: Annotated[float, Field(gt=0, lt=1)] = Field(0.5, description="Probability from which a voxel counts")
    min_component_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.3, description="Smallest connected part that is kept, as a share of the largest one; 1: the largest alone"
    )
    threads: Annotated[int, Field(ge=1)] = Field(1, description="Processor cores for one case")


class AbnormalityRequest(Contract):
    """Outline the FLAIR abnormality in a case's images as they were imported; they need no preparation."""

    case: CaseRef
    parameters: AbnormalityParameters = AbnormalityParameters()


class AbnormalityFinding(Contract):
    """What the outline says. No abnormality found is an answer, not an error."""

    abnormality_found: bool
    voxels: int = Field(ge=0)
    volume_ml: float = Field(description="By the spacing that the header states")
    missing_sequences: tuple[Sequence, ...] = Field(description="Sequences that the network had to do without")
    dice: float | None = Field(None, description="Against the imported mask, where there is one and either is filled")
    hd95_mm: float | None = Field(
        None, description="95th percentile of surface distances, by the header's spacing, where both are filled"
    )
    model_sha256: str


class AbnormalityResult(AbnormalityFinding):
    """A finding and where its mask lies (label 2 where FLAIR is abnormal), on the grid of the imported FLAIR."""

    case: CaseRef
    cached: bool
    segmentation: Key
    seconds: float
