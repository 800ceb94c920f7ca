"""Requests and results of the feature store."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from services.shared.cohort import SEQUENCES, Region, Sequence
from services.shared.contracts import CaseRef, Contract, Key

CaseId = Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$", max_length=64)]
CohortName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=64)]
FeatureValue = float | str | None

SIGMAS_OF_PADDING = 6.0


class FeatureClass(StrEnum):
    """PyRadiomics feature classes of a volume."""

    SHAPE = "shape"
    FIRST_ORDER = "firstorder"
    GLCM = "glcm"
    GLRLM = "glrlm"
    GLSZM = "glszm"
    GLDM = "gldm"
    NGTDM = "ngtdm"


class ExtractParameters(Contract):
    """How radiomic features are computed. Defaults suit intensities that are z-scored inside the brain."""

    sequences: tuple[Sequence, ...] = Field(SEQUENCES, min_length=1)
    regions: tuple[Region, ...] = Field(tuple(Region), min_length=1)
    feature_classes: tuple[FeatureClass, ...] = Field(tuple(FeatureClass), min_length=1)
    log_sigmas_mm: tuple[Annotated[float, Field(gt=0, le=10)], ...] = Field(
        (), description="Widths of the Laplacian of Gaussian filters, mm"
    )
    wavelet: Literal["coif1", "haar"] | None = Field(None, description="Undecimated wavelet, one level, 8 sub-bands")
    bin_count: int = Field(
        32, ge=2, le=256, description="Grey levels within a region (fixed bin number, as IBSI advises for MRI)"
    )
    bin_width: float | None = Field(
        None, gt=0, description="Fixed bin width in units of intensity; where given, it takes the place of bin_count"
    )
    normalise: bool = Field(
        default=False,
        description="z-score each volume over all its voxels first; prepared volumes are already z-scored",
    )
    minimum_voxels: int = Field(10, ge=2, description="A region of fewer voxels counts as absent")
    padding_mm: float = Field(32.0, gt=0, le=200, description="Surroundings of the tumour that filters see, mm")

    @model_validator(mode="after")
    def _check_padding(self) -> Self:
        widest = max(self.log_sigmas_mm, default=0.0)
        if self.padding_mm < SIGMAS_OF_PADDING * widest:
            raise ValueError(
                f"padding_mm must be at least {SIGMAS_OF_PADDING:g} times the widest of log_sigmas_mm, "
                "or the filter sees the edge of the crop"
            )
        return self


class ExtractRequest(Contract):
    """Compute the radiomic features of a case that is prepared and segmented."""

    case: CaseRef
    parameters: ExtractParameters = ExtractParameters()


class ExtractResult(Contract):
    """What stands in the case's row. Features of an absent region are missing, never zero."""

    case: CaseRef
    cached: bool
    features: int = Field(description="Named features in the row, missing ones included")
    absent_regions: tuple[Region, ...]
    undefined: tuple[str, ...] = Field(description="Features that are undefined for this case's data, hence missing")
    key: Key
    seconds: float


class RegisterRequest(Contract):
    """Gather a cohort's rows into tables and register them as feature views."""

    cohort: CohortName
    cases: tuple[CaseRef, ...] | None = Field(None, description="Which cases; by default the subset 'study'")


class RegisterResult(Contract):
    """The tables and what is registered over them."""

    cohort: CohortName
    cached: bool
    table: Key = Field(description="Radiomic features, one row a case")
    deep: Key | None = Field(None, description="Deep features, one row a case; None where no case has such")
    clinical: Key = Field(description="Clinical data, one row a case")
    rows: int
    features: int
    views: tuple[str, ...]
    services: tuple[str, ...]
    cases_without_features: tuple[CaseId, ...]
    seconds: float


class EntityRow(Contract):
    """A case, and the moment up to which its features may be known."""

    case_id: CaseId
    event_timestamp: AwareDatetime


class HistoricalRequest(Contract):
    """Ask what was known of cases at given moments."""

    cohort: CohortName
    rows: tuple[EntityRow, ...] = Field(min_length=1, max_length=100_000)
    names: tuple[str, ...] = Field(min_length=1, description="Names of features, views or feature services")


class OnlineRequest(Contract):
    """Ask for the newest features of cases."""

    cohort: CohortName
    case_ids: tuple[CaseId, ...] = Field(min_length=1, max_length=10_000)
    names: tuple[str, ...] = Field(min_length=1, description="Names of features, views or feature services")


class FeatureRow(Contract):
    """Features of one case; what is not known is None."""

    case_id: CaseId
    event_timestamp: datetime | None = Field(None, description="The moment asked for; None for the newest")
    features: dict[str, FeatureValue]


class FeatureRows(Contract):
    """One row for each row asked for, in the same order."""

    rows: tuple[FeatureRow, ...]
