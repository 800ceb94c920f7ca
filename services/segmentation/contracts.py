"""What the segmentation service accepts and returns."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from services.shared.cohort import Region
from services.shared.contracts import CaseRef, Contract, Key

DEFAULT_MODEL: Key = "models/segmentation"


class SegmentParameters(Contract):
    """How a case is segmented."""

    source: Literal["auto", "expert", "network"] = Field(
        "auto", description="auto takes the expert's segmentation where the case has one, else the network"
    )
    model: Key | None = Field(None, description=f"Folder of the trained network; none is {DEFAULT_MODEL}")
    min_component_mm3: Annotated[float, Field(ge=0)] = Field(
        100.0, description="Smallest connected part that the network's segmentation keeps, cubic millimetres"
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


class SegmentResult(Finding):
    """A finding and where its segmentation lies."""

    case: CaseRef
    cached: bool
    segmentation: Key
    seconds: float
