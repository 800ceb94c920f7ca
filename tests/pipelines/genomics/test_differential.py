"""Linear models with moderated t: planted effects, designs that cannot be fitted, genes that do not vary."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind

from pipelines.genomics.differential import design_matrix, moderated_t
from pipelines.genomics.lowess import fit_lowess
from services.shared.errors import IdMismatch, InvalidTable, InvalidValue, TooFewCases


@pytest.fixture
def samples() -> pd.DataFrame:
    names = [f"s{n}" for n in range(20)]
    return pd.DataFrame(
        {"group": ["tumour"] * 10 + ["normal"] * 10, "site": ["x", "y"] * 10, "age": np.arange(20.0)}, index=names
    )


@pytest.fixture
def frame(samples: pd.DataFrame) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    sd = np.sqrt(1 / rng.gamma(2, 1, 200))
    values = rng.normal(8, 1, (20, 200)) * sd
    values[:10, :5] += 6
    return pd.DataFrame(values, index=samples.index, columns=[f"G{n}" for n in range(200)])


def test_planted_genes_are_found_and_others_not(frame: pd.DataFrame, samples: pd.DataFrame) -> None:
    design = design_matrix(samples, group="group", case="tumour", batch="site", numeric=("age",))
    assert list(design.columns) == ["intercept", "site_y", "age", "group"]
    design = design_matrix(samples, group="group", case="tumour", batch="site")
    found = moderated_t(frame, design, coefficient="group").select(fdr=0.01, log_fold_change=2)
    assert found == ("G0", "G1", "G2", "G3", "G4")


def test_prior_pulls_t_from_the_plain_one(frame: pd.DataFrame, samples: pd.DataFrame) -> None:
    fit = moderated_t(frame, design_matrix(samples, group="group", case="tumour"), coefficient="group")
    plain = ttest_ind(frame.iloc[:10], frame.iloc[10:]).statistic
    assert 0 < fit.prior.df < 50
    assert np.sign(fit.t).tolist() == np.sign(plain).tolist()
    assert np.var(fit.t[5:]) < np.var(plain[5:])
    assert list(fit.to_frame().index) == list(frame.columns)


def test_order_of_samples_does_not_matter(frame: pd.DataFrame, samples: pd.DataFrame) -> None:
    design = design_matrix(samples, group="group", case="tumour")
    a = moderated_t(frame, design, coefficient="group", trend=True)
    b = moderated_t(frame, design.iloc[::-1], coefficient="group", trend=True)
    np.testing.assert_array_equal(a.t, b.t)


def test_constant_gene_is_named(frame: pd.DataFrame, samples: pd.DataFrame) -> None:
    frame["G9"] = 4.0
    fit = moderated_t(frame, design_matrix(samples, group="group", case="tumour"), coefficient="group")
    assert fit.constant == ("G9",)
    assert np.isfinite(fit.t).all()


def test_designs_that_cannot_be_fitted_are_refused(frame: pd.DataFrame, samples: pd.DataFrame) -> None:
    samples["scanner"] = samples["group"]
    confounded = design_matrix(samples, group="group", case="tumour", batch="scanner")
    with pytest.raises(InvalidTable, match="confounded"):
        moderated_t(frame, confounded, coefficient="group")
    design = design_matrix(samples, group="group", case="tumour")
    with pytest.raises(IdMismatch, match="samples"):
        moderated_t(frame.iloc[1:], design, coefficient="group")
    with pytest.raises(InvalidValue, match="coefficient"):
        moderated_t(frame, design, coefficient="grade")
    with pytest.raises(TooFewCases, match="degree of freedom"):
        moderated_t(frame.iloc[9:11], design.iloc[9:11], coefficient="group")
    with pytest.raises(InvalidTable, match="one value"):
        design_matrix(samples, group="group", case="absent")
    with pytest.raises(InvalidTable, match="grade"):
        design_matrix(samples, group="grade", case=4)
    samples.loc["s0", "site"] = None
    with pytest.raises(InvalidTable, match="site"):
        design_matrix(samples, group="group", case="tumour", batch="site")


def test_local_regression_repeats_a_line_and_resists_an_outlier() -> None:
    x = np.linspace(0, 10, 101)
    y = 3 + 2 * x + 0.01 * np.sin(40 * x)
    y[50] += 1000
    curve = fit_lowess(x, y, span=0.5)
    np.testing.assert_allclose(curve(np.array([1.0, 5.0, 9.0])), [5, 13, 21], atol=0.02)
    assert curve(np.array([-5.0, 20.0])).tolist() == [curve(x[:1])[0], curve(x[-1:])[0]]
