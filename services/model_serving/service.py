"""The model-serving service: list, describe, predict from features or images, explain, register."""

from __future__ import annotations

from services.model_serving import registry
from services.model_serving.contracts import (
    DeepRequest,
    DeepResult,
    DescribeModelRequest,
    DescribeModelResult,
    ExplainRequest,
    Explanation,
    ImagingPrediction,
    ImagingRequest,
    ListModelsRequest,
    ListModelsResult,
    ModelSummary,
    Prediction,
    PredictRequest,
    RegisterRequest,
    RegisterResult,
)
from services.model_serving.predictor import predict
from services.shared.metrics import count_prediction
from services.shared.serving import endpoint, service
from services.shared.storage import open_storage


@service("model_serving")
class ModelServing:
    """Serves registered models."""

    @endpoint
    def list_models(self, request: ListModelsRequest, /) -> ListModelsResult:
        """Return the registered versions."""
        storage = open_storage()
        names = [request.model] if request.model else registry.list_models(storage)
        found = []
        for name in names:
            best = registry.champion(storage, name)
            for entry in registry.list_versions(storage, name):
                package = registry.load(storage, entry)
                found.append(
                    ModelSummary(
                        model=name,
                        version=entry.version,
                        champion=entry.version == best,
                        kind=package.description.kind,
                        features=len(package.description.columns),
                        auc=package.description.metrics.get("auc"),
                        c_index=package.description.metrics.get("c_index"),
                        sha256=package.sha256,
                    )
                )
        return ListModelsResult(models=tuple(found))

    @endpoint
    def describe_model(self, request: DescribeModelRequest, /) -> DescribeModelResult:
        """Return everything known about one model."""
        storage = open_storage()
        entry = registry.resolve(storage, request.model)
        package = registry.load(storage, entry)
        return DescribeModelResult(
            version=entry.version,
            champion=registry.champion(storage, entry.model) == entry.version,
            sha256=package.sha256,
            description=package.description,
        )

    @endpoint
    def predict(self, request: PredictRequest, /) -> Prediction:
        """Return one patient's prediction."""
        storage = open_storage()
        entry = registry.resolve(storage, request.model)
        package = registry.load(storage, entry)
        case = str(request.case) if request.case else None
        made = predict(package, request.features, model=entry.model, version=entry.version, case=case)
        count_prediction(
            model=entry.model,
            version=entry.version,
            label=made.label,
            probability=made.probability,
            features=len(package.description.columns),
            outside=len(made.out_of_range),
            imputed=len(made.imputed),
        )
        return made

    @endpoint
    def predict_imaging(self, request: ImagingRequest, /) -> ImagingPrediction:
        """Return what an imaging network says of one case."""
        # Torch takes seconds to import: a service that is asked for features alone does without it.
        from services.model_serving.imaging import predict_case

        return predict_case(open_storage(), request)

    @endpoint
    def explain(self, request: ExplainRequest, /) -> Explanation:
        """Write where an imaging network looked in one case."""
        from services.model_serving.imaging import explain_case

        return explain_case(open_storage(), request)

    @endpoint
    def deep_features(self, request: DeepRequest, /) -> DeepResult:
        """Make a case's row of deep features, or find that it is made."""
        from services.model_serving.deep_features import extract_deep

        return extract_deep(open_storage(), request)

    @endpoint
    def register(self, request: RegisterRequest, /) -> RegisterResult:
        """Make a study's model package a registered version."""
        storage = open_storage()
        entry, cached = registry.register_package(storage, request.folder, model=request.model)
        if request.champion:
            registry.promote(storage, entry)
        return RegisterResult(
            model=entry.model,
            version=entry.version,
            champion=registry.champion(storage, entry.model) == entry.version,
            cached=cached,
            folder=entry.folder,
            sha256=registry.load(storage, entry).sha256,
        )
