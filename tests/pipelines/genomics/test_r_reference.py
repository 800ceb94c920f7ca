"""Results equal R's (limma, sva, edgeR, GSVA, base), on every case that is there."""

import pytest
from r_cases import Case, disagreements, find_cases, recompute_counts, recompute_gsva, recompute_limma_combat

CLOSED = 1e-9
# Iterated to a change of 1e-4, so another stopping point would differ by as much.
ITERATED = dict.fromkeys(
    ("combat_null", "combat_mod", "combat_ref", "combat_mean_only", "combat_nonparametric_first_rows"), 1e-4
)


def _cases(method: str) -> list:
    return [pytest.param(case, id=case.name) for case in find_cases((method,))]


@pytest.mark.parametrize("case", _cases("limma_combat"))
def test_limma_and_batch_adjustment(case: Case) -> None:
    computed = recompute_limma_combat(case)
    assert set(computed) == set(case.result)
    assert disagreements(case.result, computed, ITERATED, CLOSED) == []


@pytest.mark.parametrize("case", _cases("gsva"))
def test_pathway_scores_enrichment_and_correlation(case: Case) -> None:
    computed = recompute_gsva(case)
    assert set(computed) == set(case.result)
    assert disagreements(case.result, computed, {}, CLOSED) == []


@pytest.mark.parametrize("case", _cases("deseq2"))
def test_library_sizes_and_voom(case: Case) -> None:
    assert disagreements(case.result, recompute_counts(case), {}, CLOSED) == []
