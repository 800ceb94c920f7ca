"""Pathway scores and correlation: properties, peers and bad input (values against R stand in test_r_reference)."""

import numpy as np
import pandas as pd
import pytest

from pipelines.genomics.correlation import correlate
from pipelines.genomics.pathways import gsva, plage, ssgsea, z_score
from services.shared.errors import IdMismatch, InvalidTable, InvalidValue, TooFewCases

METHODS = [gsva, ssgsea, z_score, plage]


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(11)
    values = rng.normal(7, 2, (24, 80))
    values[:12, :15] += 3
    return pd.DataFrame(values, index=[f"s{n}" for n in range(24)], columns=[f"G{n}" for n in range(80)])


SETS = {"up": tuple(f"G{n}" for n in range(15)), "flat": tuple(f"G{n}" for n in range(40, 60)), "absent": ("X", "Y")}


@pytest.mark.parametrize("score", METHODS)
def test_raised_set_scores_higher_where_it_is_raised(frame: pd.DataFrame, score) -> None:
    result = score(frame, SETS)
    gap = result.values.iloc[:12].mean() - result.values.iloc[12:].mean()
    assert gap["up"] > 4 * abs(gap["flat"])
    assert result.size == {"up": 15, "flat": 20}
    assert result.dropped == {"absent": 0}


@pytest.mark.parametrize("score", METHODS)
def test_no_overlap_of_identifiers_is_refused(frame: pd.DataFrame, score) -> None:
    with pytest.raises(IdMismatch, match="overlap"):
        score(frame, {"A": ("960", "27035")})
    with pytest.raises(TooFewCases, match="limits"):
        score(frame, SETS, least=50)


@pytest.mark.parametrize("score", [gsva, z_score, plage])
def test_constant_genes_are_left_out_and_named(frame: pd.DataFrame, score) -> None:
    frame["G3"] = 5.0
    result = score(frame, SETS)
    assert result.constant == ("G3",)
    assert result.size["up"] == 14
    assert np.isfinite(result.values.to_numpy()).all()
    with pytest.raises(TooFewCases):
        score(frame.iloc[:1], SETS)


def test_raw_ssgsea_of_a_sample_needs_no_other(frame: pd.DataFrame) -> None:
    alone = ssgsea(frame.iloc[:1], SETS, normalise=False).values
    pd.testing.assert_frame_equal(alone, ssgsea(frame, SETS, normalise=False).values.iloc[:1])


def test_walk_equals_the_walk_gene_by_gene(frame: pd.DataFrame) -> None:
    """The random walk of the definition, one gene at a time, on the empirical distribution."""
    score = gsva(frame, SETS, kernel="none").values
    below = (frame.to_numpy()[:, None, :] <= frame.to_numpy()[None, :, :]).mean(axis=0)
    n = frame.shape[1]
    for row in (0, 20):
        order = np.argsort(-below[row], kind="stable")
        weight = np.abs(np.arange(n, 0, -1) - n / 2)
        hit = np.isin(frame.columns[order], SETS["up"])
        walk = np.cumsum(np.where(hit, weight / weight[hit].sum(), -1 / (n - hit.sum())))
        assert score["up"].iloc[row] == pytest.approx(max(walk.max(), 0) + min(walk.min(), 0), abs=1e-12)


def test_a_set_of_every_gene_has_no_outside(frame: pd.DataFrame) -> None:
    assert np.allclose(gsva(frame, {"all": tuple(frame.columns)}).values, 1.0)
    assert np.isfinite(ssgsea(frame, {"all": tuple(frame.columns)}, normalise=False).values.to_numpy()).all()


def test_kernels_refuse_what_they_cannot_smooth(frame: pd.DataFrame) -> None:
    with pytest.raises(InvalidTable, match="counts"):
        gsva(frame, SETS, kernel="poisson")
    with pytest.raises(InvalidValue, match="kernel"):
        gsva(frame, SETS, kernel="box")


def test_correlation_finds_its_variables_and_counts_constant_ones(frame: pd.DataFrame) -> None:
    frame["G70"] = 1.0
    target = frame.iloc[:, :15].mean(axis=1)
    result = correlate(frame, target)
    assert result.constant == ("G70",)
    table = result.to_frame()
    assert table["fdr"].idxmin() in SETS["up"]
    assert (table["fdr"] < 0.05).sum() >= 8
    assert table.loc["G1", "r"] == pytest.approx(np.corrcoef(frame["G1"], target)[0, 1], abs=1e-12)


def test_correlation_refuses_targets_without_variation_or_samples(frame: pd.DataFrame) -> None:
    with pytest.raises(InvalidTable, match="vary"):
        correlate(frame, pd.Series(1.0, index=frame.index))
    with pytest.raises(IdMismatch, match="s0"):
        correlate(frame, pd.Series(np.arange(23.0), index=frame.index[1:]))
    with pytest.raises(TooFewCases):
        correlate(frame.iloc[:2], pd.Series([1.0, 2.0], index=frame.index[:2]))
