from __future__ import annotations

import pytest

from pipelines.modelling.makers import check_makers
from services.shared.errors import InvalidValue

BOTH = "extracted by gliaflow, network a 1, network b 2"


@pytest.mark.parametrize("found", [None, "extracted by gliaflow, network a 1", BOTH])
def test_a_model_may_read_some_of_its_studys_networks(found: str | None) -> None:
    check_makers(found, BOTH, case="c", model="m")


@pytest.mark.parametrize(("found", "learnt"), [("extracted by gliaflow, network a 2", BOTH), (BOTH, None)])
def test_other_networks_are_refused(found: str, learnt: str | None) -> None:
    with pytest.raises(InvalidValue, match="another network"):
        check_makers(found, learnt, case="c", model="m")
