"""One patient's prediction: newest features from the feature store, prediction from model serving."""

from __future__ import annotations

from pipelines.clients import connect
from pipelines.modelling.makers import check_makers, maker_columns, state_makers
from services.feature_store.contracts import OnlineRequest
from services.model_serving.contracts import DescribeModelRequest, Prediction, PredictRequest
from services.shared.contracts import CaseRef


def predict_case(case: CaseRef, model: str) -> Prediction:
    """Return a registered model's prediction for a case whose features are registered.

    Parameters
    ----------
    case
        The case.
    model
        ``grading``, ``grading/latest``, ``grading/<version>`` …

    Raises
    ------
    NotFound
        Where there is no such model, or the feature store does not know the case.
    InvalidValue
        Where the case's deep features are of another network than the model learnt from.
    """
    serving = connect("model_serving")
    description = serving.describe_model(DescribeModelRequest(model=model)).description
    columns = description.columns
    request = OnlineRequest(cohort=case.cohort, case_ids=(case.id,), names=columns + maker_columns(columns))
    (row,) = connect("feature_store").online_features(request).rows
    makers = {name: value for name, value in row.features.items() if isinstance(value, str)}
    check_makers(state_makers(makers, columns), description.platform, case=str(case), model=model)
    features = {name: value for name, value in row.features.items() if not isinstance(value, str)}
    return serving.predict(PredictRequest(model=model, features=features, case=case))
