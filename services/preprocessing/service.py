"""The preprocessing service: one case from imported volumes to volumes on the atlas grid."""

from __future__ import annotations

from services.preprocessing.contracts import DiffusionRequest, DiffusionResult, PrepareRequest, PrepareResult
from services.preprocessing.diffusion import prepare_diffusion
from services.preprocessing.steps import prepare_case
from services.shared.serving import endpoint, service
from services.shared.storage import open_storage


@service("preprocessing")
class Preprocessing:
    """Prepares cases."""

    @endpoint
    def prepare(self, request: PrepareRequest, /) -> PrepareResult:
        """Prepare one case, or find that it is prepared."""
        return prepare_case(open_storage(), request.case, request.parameters)

    @endpoint
    def prepare_diffusion(self, request: DiffusionRequest, /) -> DiffusionResult:
        """Make the diffusion maps of a prepared case, or find that they are made."""
        return prepare_diffusion(open_storage(), request.case, seed=request.seed)
