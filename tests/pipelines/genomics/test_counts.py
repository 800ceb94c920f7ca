"""Negative binomial models: planted effects, outliers, and counts that are none."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import nbinom

from pipelines.genomics.counts import compare_counts, size_factors, variance_stabilised
from pipelines.genomics.differential import design_matrix
from pipelines.genomics.dispersion import fit_trend
from pipelines.genomics.negative_binomial import fit_coefficients, log_likelihood
from services.shared.errors import IdMismatch, InvalidTable, TooFewCases


@pytest.fixture
def cohort() -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(7)
    names = [f"s{n}" for n in range(16)]
    risk = np.repeat(["high", "low"], 8)
    mean = rng.lognormal(4, 1.2, 300)
    mean = np.where(np.arange(300) < 20, mean * np.where(risk == "high", 4, 1)[:, None], mean)
    dispersion = 0.05 + 2 / mean
    counts = rng.poisson(mean * rng.gamma(1 / dispersion, dispersion))
    counts[:, 299] = 0
    frame = pd.DataFrame(counts, index=names, columns=[f"G{n}" for n in range(300)])
    samples = pd.DataFrame({"risk": risk, "site": ["x", "y"] * 8}, index=names)
    return frame, design_matrix(samples, group="risk", case="high", batch="site")


def test_prior_width_is_found_with_three_degrees_of_freedom() -> None:
    rng = np.random.default_rng(1)
    means = rng.lognormal(4, 1, 4000)
    true = (0.1 + 1 / means) * np.exp(rng.normal(0, 1.0, 4000))
    trend = fit_trend(means, true * rng.chisquare(3, 4000) / 3, df=3)
    assert trend.kind == "parametric"
    assert trend.prior_variance == pytest.approx(1.0, abs=0.25)


def test_local_trend_follows_a_curve_that_no_parametric_one_can() -> None:
    means = np.exp(np.linspace(0, 10, 500))
    dispersions = 0.02 * means**0.3
    trend = fit_trend(means, dispersions * np.exp(0.1 * np.sin(np.arange(500) * 7)), df=10)
    assert trend.kind == "local"
    np.testing.assert_allclose(trend.curve(means), dispersions, rtol=0.03)
    np.testing.assert_allclose(trend.curve(np.array([0.5, 50_000.0])), 0.02 * np.array([0.5, 50_000]) ** 0.3, rtol=0.1)


def test_planted_genes_are_found(cohort: tuple) -> None:
    counts, design = cohort
    result = compare_counts(counts, design, coefficient="risk")
    found = set(result.select(fdr=0.05, log_fold_change=1))
    planted = {f"G{n}" for n in range(20)}
    assert len(found & planted) >= 18
    assert len(found - planted) <= 5
    assert result.to_frame().loc[sorted(planted), "log_fold_change"].median() == pytest.approx(2, abs=0.3)


def test_gene_without_reads_has_no_result(cohort: tuple) -> None:
    result = compare_counts(*cohort, coefficient="risk").to_frame().loc["G299"]
    assert result["base_mean"] == 0
    assert result.drop("base_mean").isna().all()


def test_outlying_count_is_replaced_where_replicates_allow_it(cohort: tuple) -> None:
    counts, design = cohort
    counts.loc["s3", "G100"] += 100_000
    simple = design.drop(columns="site_y")
    assert "G100" in compare_counts(counts, simple, coefficient="risk").replaced
    flagged = compare_counts(counts, design, coefficient="risk")
    assert flagged.replaced == ()
    assert np.isnan(flagged.to_frame().loc["G100", "p"])
    kept = compare_counts(counts, design, coefficient="risk", filters=False)
    assert np.isfinite(kept.to_frame().loc["G100", "p"])


def test_depth_of_sequencing_does_not_matter(cohort: tuple) -> None:
    counts, _ = cohort
    deeper = counts.copy()
    deeper.loc["s0"] *= 3
    assert size_factors(deeper).loc["s0"] / size_factors(counts).loc["s0"] == pytest.approx(3 ** (15 / 16), rel=1e-9)


def test_likelihood_is_that_of_the_negative_binomial() -> None:
    y, mu, alpha = np.array([[0.0, 3, 10]]), np.array([[1.0, 4, 7]]), np.array([[0.3]])
    direct = nbinom.logpmf(y, 1 / alpha, 1 / (1 + alpha * mu)).sum()
    assert log_likelihood(y, mu, alpha)[0] == pytest.approx(direct, rel=1e-12)


def test_group_means_are_recovered() -> None:
    y = np.array([[10.0, 14, 12, 40, 44, 48]])
    x = np.column_stack([np.ones(6), [0, 0, 0, 1, 1, 1]])
    fit = fit_coefficients(y, x, np.ones(6), np.array([0.01]))
    assert np.exp(fit.coefficients[0]) == pytest.approx([12, 44 / 12], rel=1e-4)


def test_counts_that_are_none_are_refused(cohort: tuple) -> None:
    counts, design = cohort
    with pytest.raises(InvalidTable, match="whole numbers"):
        compare_counts(counts + 0.5, design, coefficient="risk")
    with pytest.raises(InvalidTable, match="Negative"):
        compare_counts(counts - 1, design, coefficient="risk")
    with pytest.raises(IdMismatch):
        compare_counts(counts.iloc[1:], design, coefficient="risk")
    with pytest.raises(InvalidTable, match="coefficient"):
        compare_counts(counts, design, coefficient="grade")
    with pytest.raises(InvalidTable, match="confounded"):
        compare_counts(counts, design.assign(again=design["risk"]), coefficient="risk")
    empty = counts.copy()
    empty.loc["s0"] = 0
    with pytest.raises(TooFewCases, match="every sample"):
        compare_counts(empty, design, coefficient="risk")


def test_stabilised_values_vary_alike_at_all_means(cohort: tuple) -> None:
    counts, _ = cohort
    values = variance_stabilised(counts)
    common = counts.mean().between(100, 1e9)
    raw = np.log2(counts.loc[:, common] / size_factors(counts).to_numpy()[:, None])
    assert np.abs(values.loc[:, common] - raw).to_numpy()[counts.loc[:, common] > 500].max() < 0.5
    spread = values.iloc[:, 20:299].std()
    assert spread[counts.mean() < 30].median() < 2 * spread[counts.mean() > 100].median()


def test_likelihood_ratio_agrees_with_wald_where_effects_are_plain(cohort: tuple) -> None:
    frame = compare_counts(*cohort, coefficient="risk").to_frame().iloc[:20]
    assert (frame["likelihood_ratio_p"] < 1e-3).sum() >= 15
    np.testing.assert_allclose(frame["likelihood_ratio"], frame["statistic"] ** 2, rtol=0.5)


def test_whole_counts_given_as_floats_count(cohort: tuple) -> None:
    counts, design = cohort
    a = compare_counts(counts, design, coefficient="risk")
    b = compare_counts(counts.astype(float), design, coefficient="risk")
    np.testing.assert_array_equal(a.p, b.p)
