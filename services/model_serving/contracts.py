"""Requests and results of the model-serving service."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from services.model_serving.package import Estimate, Kind, ModelName, PackageDescription
from services.shared.cohort import Region, Sequence
from services.shared.contracts import CaseRef, Contract, Key

ModelVersion = Annotated[str, StringConstraints(pattern=r"^v[0-9]{4,}-[0-9a-f]{12}$")]
ModelRef = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*(/(champion|challenger|latest|v[0-9]{4,}-[0-9a-f]{12}))?$", max_length=96
    ),
]
"""``grading`` (what serves: the promoted version, or the one on trial), ``grading/champion``, ``grading/challenger``,
``grading/latest``, ``grading/v0001-0123456789ab``."""

FeatureValue = Annotated[float, Field(strict=True)]


class ListModelsRequest(Contract):
    """Ask for all registered models, or those of one name."""

    model: ModelName | None = None


class ModelSummary(Contract):
    """One registered version."""

    model: str
    version: ModelVersion
    champion: bool
    kind: Kind
    features: int
    auc: Estimate | None
    c_index: Estimate | None = None
    sha256: str


class ListModelsResult(Contract):
    """Registered versions, sorted by model and version."""

    models: tuple[ModelSummary, ...]


class DescribeModelRequest(Contract):
    """Ask for everything known about one model."""

    model: ModelRef


class DescribeModelResult(Contract):
    """A model's description and version."""

    version: ModelVersion
    champion: bool
    sha256: str
    description: PackageDescription


class PredictRequest(Contract):
    """Features of one patient."""

    model: ModelRef
    features: dict[str, FeatureValue | None] = Field(
        description="Value by feature name; null where the feature does not exist (an absent region)"
    )
    case: CaseRef | None = None


class FeatureEffect(Contract):
    """What one feature does to one prediction."""

    feature: str
    value: float | None = Field(description="As given; None where it was missing")
    z: float = Field(description="Standard deviations from the training mean, after imputation")
    effect: float = Field(description="In the prediction's effect_unit")


class SurvivalPoint(Contract):
    """Predicted survival from one time up to the next."""

    months: float = Field(gt=0)
    probability: float = Field(ge=0, le=1)


class Prediction(Contract):
    """A probability, or a risk score with predicted survival, and its reasons. A research result, not a diagnosis."""

    model: str
    version: str
    case: str | None
    probability: float | None = Field(ge=0, le=1, description="Of the positive class; None for a Cox signature")
    risk_score: float | None = Field(None, description="Log hazard relative to the training mean; of a Cox signature")
    survival: tuple[SurvivalPoint, ...] = Field((), description="Predicted survival; of a Cox signature")
    label: str
    positive_label: str
    threshold: float = Field(description="Of the probability, or of the risk score of a Cox signature")
    effect_unit: Literal["log-odds", "probability", "log-hazard"] = Field(
        description="log-odds, log-hazard: coefficient × z; probability: change against the feature at its median"
    )
    effects: tuple[FeatureEffect, ...] = Field(description="Largest first")
    imputed: tuple[str, ...] = Field(description="Features that were missing and took their training median")
    out_of_range: tuple[str, ...] = Field(description="Features beyond 4 standard deviations of the training mean")
    ignored_features: int = Field(ge=0, description="Features given that the model does not use")
    warnings: tuple[str, ...]


class ImagingRequest(Contract):
    """A case whose volumes are in storage, and the imaging network to ask."""

    case: CaseRef
    model: Key = Field(description="Folder of the trained network, e.g. models/imaging/grade")


class ImagingPrediction(Contract):
    """What an imaging network says of one case. A research result, not a diagnosis.

    Without a tumour of the network's region there is nothing to look at: then ``tumour_found`` is false and the rest
    is empty.
    """

    case: CaseRef
    model: Key
    architecture: str
    weights_sha256: str
    tumour_found: bool
    outside_share: float | None = Field(None, description="Share of the region that the network's input leaves out")
    missing: tuple[str, ...] = Field((), description="Sequences that were not there; the network saw 0")
    probability: float | None = Field(None, ge=0, le=1, description="Of the positive class")
    positive_label: str | None = None
    label: str | None = None
    threshold: float | None = Field(None, description="Of the probability")
    risk_score: float | None = Field(None, description="Log hazard, less the mean of the training patients")
    cutoff: float | None = Field(None, description="Of the risk score: high risk from it on; None where none is known")
    high_risk: bool | None = None
    warnings: tuple[str, ...] = ()


class ExplainRequest(Contract):
    """A case, an imaging network, and which of its answers to explain."""

    case: CaseRef
    model: Key
    target: Literal["class", "risk"] | None = Field(
        None, description="The positive class or the risk of death; None: what the network is for"
    )


class Explanation(Contract):
    """Where a network looked: a map over the patient's volumes, 0 to 1, and a picture of it."""

    case: CaseRef
    model: Key
    cached: bool
    tumour_found: bool
    activation: Key | None = Field(None, description="Class activation map, NIfTI on the grid of the case's volumes")
    overlay: Key | None = Field(None, description="PNG of the slice where the map is strongest")
    share_in_tumour: float | None = Field(None, description="Share of the map's sum that lies inside the tumour")
    means: dict[str, float | None] = Field(
        default_factory=dict, description="Mean of each channel's volume where the map reaches half its peak"
    )


class DeepParameters(Contract):
    """Which deep features are made of a case.

    ResNet-34 gives a thousand of each region on each sequence; each of ``networks`` gives those of its last average
    pool, 512 where it is the paper's.
    """

    sequences: tuple[Sequence, ...] = Field((Sequence.T1C, Sequence.FLAIR), description="Of ResNet-34; none: without")
    regions: tuple[Region, ...] = (Region.ED, Region.ET, Region.WT)
    weights: Key | None = Field(
        None, description="ResNet-34's ImageNet weights, .npz or .safetensors; without them it is random, and says so"
    )
    networks: tuple[Key, ...] = Field((), description="Folders of trained imaging networks, as models/imaging/grade")
    source: Literal["prepared", "imported"] = "prepared"


class DeepRequest(Contract):
    """Asks for the deep features of a prepared and segmented case."""

    case: CaseRef
    parameters: DeepParameters = DeepParameters()


class DeepResult(Contract):
    """What stands in the case's row of deep features. Features of an absent region are missing, never zero."""

    case: CaseRef
    cached: bool
    features: int
    start: str = Field(description="ResNet-34's weights: 'imagenet <sha256>' or 'random, seed <n>'")
    networks: dict[Key, Key] = Field(description="Each network's folder, and the one of it that never saw the case")
    key: Key
    seconds: float


class RegisterRequest(Contract):
    """Make a study's model package a registered version."""

    folder: Key = Field(description="Folder of the package, e.g. studies/<cohort>/grading/model")
    model: ModelName | None = Field(None, description="Name to register it by; the study's name where None")
    champion: bool = Field(default=False, description="Whether 'model' without a version means this one from now on")


class RegisterResult(Contract):
    """The registered version."""

    model: str
    version: ModelVersion
    champion: bool
    cached: bool = Field(description="Whether the same package was registered before")
    folder: Key
    sha256: str
