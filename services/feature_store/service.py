"""The feature store as a service. See README.md for its endpoints and limits."""

from __future__ import annotations

from services.feature_store.contracts import (
    ExtractRequest,
    ExtractResult,
    FeatureRows,
    HistoricalRequest,
    OnlineRequest,
    RegisterRequest,
    RegisterResult,
)
from services.feature_store.radiomics import extract_case
from services.shared.serving import endpoint, service
from services.shared.storage import open_storage

# Feast takes seconds to import, and extraction does not need it: the store is imported where it is used.


@service("feature_store")
class FeatureStore:
    """Radiomic features of cases, and the tables and views over them."""

    @endpoint
    def extract(self, request: ExtractRequest, /) -> ExtractResult:
        """Compute a case's radiomic features."""
        return extract_case(open_storage(), request.case, request.parameters)

    @endpoint
    def register(self, request: RegisterRequest, /) -> RegisterResult:
        """Gather a cohort's features into tables and register them."""
        from services.feature_store.store import register_cohort

        return register_cohort(open_storage(), request)

    @endpoint
    def historical_features(self, request: HistoricalRequest, /) -> FeatureRows:
        """Return what was known of cases at given moments."""
        from services.feature_store.store import historical_features

        return historical_features(open_storage(), request)

    @endpoint
    def online_features(self, request: OnlineRequest, /) -> FeatureRows:
        """Return the newest features of cases."""
        from services.feature_store.store import online_features

        return online_features(open_storage(), request)
