"""The service in this process."""

from __future__ import annotations

import pytest

from services.preprocessing.contracts import PrepareParameters, PrepareRequest
from services.preprocessing.service import Preprocessing
from services.shared.contracts import CaseRef
from services.shared.errors import MissingSequence


def test_the_service_knows_a_prepared_case(prepared, storage):
    prepared.copied_to(storage)
    request = PrepareRequest(case=prepared.keys.case, parameters=PrepareParameters(voxel_mm=4.0))
    assert Preprocessing().prepare(request) == prepared.result.model_copy(update={"cached": True})


def test_the_service_refuses_an_unknown_case(storage):
    with pytest.raises(MissingSequence):
        Preprocessing().prepare(PrepareRequest(case=CaseRef(cohort="no", id="one")))
