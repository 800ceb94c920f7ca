"""Requests and results of the preprocessing service."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from services.preprocessing.intensity import Normalisation
from services.shared.cohort import Sequence
from services.shared.contracts import CaseRef, Contract, Key


class PrepareParameters(Contract):
    """How a case is prepared."""

    voxel_mm: float = Field(1.0, ge=0.5, le=6.0, description="Voxel size of the prepared volumes, mm")
    alignment: Literal["rigid", "affine"] = Field(
        "rigid",
        description="How the case is laid on the atlas: rigid keeps the patient's millimetres, so volumes and shape "
        "features are his own; affine also fits the size",
    )
    normalisation: Normalisation = Normalisation.Z_SCORE
    interpolation: Literal["linear", "bspline"] = "linear"
    bias_correction: bool = Field(default=True, description="Correct the bias field with N4")
    diffusion: bool = Field(default=True, description="Make FA, MD, AD and RD of cases with a diffusion series")
    seed: int = Field(0, ge=0, description="Seed of the registration's samples")


class PrepareRequest(Contract):
    """Asks to prepare one case."""

    case: CaseRef
    parameters: PrepareParameters = PrepareParameters()


class SequenceQuality(Contract):
    """Quality numbers of one sequence.

    Mutual information is normalised (1 to 2) and, like the correlation, taken between the sequence and T1c inside
    the brain: before, with the geometry of the headers; after, with the registration found. Both are None for T1c.
    """

    spacing_mm: tuple[float, float, float]
    anisotropy: float
    signal_to_noise: float | None
    bias_field_range: float = Field(description="98th over 2nd percentile of the bias field; 1 is none")
    nmi_before: float | None
    nmi_after: float | None
    correlation_before: float | None
    correlation_after: float | None
    shift_mm: float = Field(description="Mean distance by which registration moved the brain against T1c")
    fraction_clipped: float
    fraction_seen: float = Field(description="Share of the brain that lies in the sequence's field of view")


class Quality(Contract):
    """Content of qc.json of a prepared case."""

    status: Literal["done"] = "done"
    space: str
    voxel_mm: float
    skull_stripped: bool = Field(description="The case came without skull; its own mask was kept")
    brain_volume_ml: float
    atlas_dice: float = Field(description="Dice of the brain and the atlas's, laid on it by the affine transform")
    atlas_nmi: float = Field(description="Normalised mutual information of T1c and the atlas inside the brain")
    atlas_scale: float = Field(description="Cube root of the affine transform's volume change")
    sequences: dict[Sequence, SequenceQuality]
    flags: list[str]


class DiffusionRequest(Contract):
    """Asks for the diffusion maps of a prepared case."""

    case: CaseRef
    seed: int = Field(0, ge=0, description="Seed of the registration's samples")


class DiffusionQuality(Contract):
    """Quality numbers of a diffusion series."""

    spacing_mm: tuple[float, float, float]
    volumes: int
    volumes_fitted: int = Field(description="Those that the tensor is fitted to: up to b = 1500 s/mm² where they do")
    largest_b_s_mm2: float
    shift_mm: float = Field(description="Mean distance by which registration moved the brain against T2")
    fraction_seen: float = Field(description="Share of the brain that lies in the series' field of view")
    median_md_um2_ms: float


class DiffusionResult(Contract):
    """Where the diffusion maps stand: FA without unit, MD, AD and RD in µm²/ms, 0 outside the brain.

    ``transform`` takes points of the atlas to points of the series.
    """

    case: CaseRef
    cached: bool
    maps: dict[str, Key]
    transform: Key
    quality: DiffusionQuality
    seconds: float


class PrepareResult(Contract):
    """Where the prepared volumes stand.

    ``transforms`` holds, for each sequence, the transform that takes points of the atlas to points of the sequence.
    """

    case: CaseRef
    cached: bool
    images: dict[Sequence, Key]
    brain_mask: Key
    segmentation: Key | None
    transforms: dict[Sequence, Key]
    quality: Quality
    seconds: float
