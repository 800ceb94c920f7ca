"""Batch adjustment stays on its side of the border between training and validation."""

import numpy as np
import pandas as pd
import pytest

from pipelines.genomics.batch import fit_batch_means, fit_combat
from pipelines.genomics.differential import design_matrix
from pipelines.genomics.normalisation import fit_quantile_normalisation
from services.shared.errors import IdMismatch, InvalidTable, InvalidValue, TooFewCases


@pytest.fixture
def cohort() -> tuple[pd.DataFrame, pd.Series]:
    rng = np.random.default_rng(5)
    batch = np.repeat(["a", "b", "c"], 12)
    shift = {"a": 0.0, "b": 1.5, "c": -1.0}
    values = rng.normal(6, 1, (36, 40)) + np.array([shift[b] for b in batch])[:, None]
    names = [f"s{n}" for n in range(36)]
    return pd.DataFrame(values, index=names, columns=[f"G{n}" for n in range(40)]), pd.Series(batch, index=names)


def spread(frame: pd.DataFrame, batch: pd.Series) -> float:
    return float(frame.groupby(batch).mean().std().mean())


@pytest.mark.parametrize("fit", [fit_combat, fit_batch_means])
def test_batches_come_together(cohort: tuple, fit) -> None:
    frame, batch = cohort
    assert spread(fit(frame, batch).apply(frame, batch), batch) < 0.2 * spread(frame, batch)


@pytest.mark.parametrize("fit", [fit_combat, fit_batch_means])
def test_a_sample_is_adjusted_the_same_whoever_stands_beside_it(cohort: tuple, fit) -> None:
    frame, batch = cohort
    train = frame.index[::2]
    model = fit(frame.loc[train], batch)
    held_out = frame.drop(train)
    together = model.apply(held_out, batch)
    corrupted = held_out.copy()
    corrupted.iloc[1:] = -99.0
    np.testing.assert_array_equal(model.apply(corrupted, batch).iloc[0], together.iloc[0])
    np.testing.assert_array_equal(model.apply(held_out.iloc[:1], batch).iloc[0], together.iloc[0])


@pytest.mark.parametrize("fit", [fit_combat, fit_batch_means])
def test_unseen_batch_is_refused(cohort: tuple, fit) -> None:
    frame, batch = cohort
    model = fit(frame[batch != "c"], batch)
    with pytest.raises(IdMismatch, match="not seen in training"):
        model.apply(frame, batch)


def test_reference_batch_stays(cohort: tuple) -> None:
    frame, batch = cohort
    adjusted = fit_combat(frame, batch, reference="b").apply(frame, batch)
    pd.testing.assert_frame_equal(adjusted[batch == "b"], frame[batch == "b"])
    assert abs((adjusted[batch == "a"] - frame[batch == "b"].mean()).mean().mean()) < 0.2
    with pytest.raises(InvalidValue, match="reference"):
        fit_combat(frame, batch, reference="z")


def test_gene_without_variance_in_a_batch_is_left_alone_and_named(cohort: tuple) -> None:
    frame, batch = cohort
    frame.loc[batch == "a", "G3"] = 2.0
    model = fit_combat(frame, batch)
    assert model.unadjusted == ("G3",)
    pd.testing.assert_series_equal(model.apply(frame, batch)["G3"], frame["G3"])


def test_single_sample_in_a_batch_adjusts_locations_only(cohort: tuple) -> None:
    frame, batch = cohort
    batch.iloc[0] = "alone"
    model = fit_combat(frame, batch)
    assert model.mean_only
    assert (model.variance == 1).all().all()


def test_kept_covariates_must_come_again(cohort: tuple) -> None:
    frame, batch = cohort
    grade = pd.DataFrame({"grade": np.arange(36) % 2.0}, index=frame.index)
    model = fit_combat(frame, batch, covariates=grade)
    with pytest.raises(IdMismatch, match="covariates"):
        model.apply(frame, batch)


def test_confounded_and_missing_batches_are_refused(cohort: tuple) -> None:
    frame, batch = cohort
    group = design_matrix(pd.DataFrame({"group": batch}), group="group", case="b")
    for fit, option in ((fit_combat, "covariates"), (fit_batch_means, "design")):
        with pytest.raises(InvalidTable, match="confounded"):
            fit(frame, batch, **{option: group})
        with pytest.raises(IdMismatch, match="s0"):
            fit(frame, batch.iloc[1:])
    with pytest.raises(TooFewCases, match="two batches"):
        fit_combat(frame[batch == "a"], batch)


def test_quantiles_of_training_are_given_to_every_sample_alone(cohort: tuple) -> None:
    frame, batch = cohort
    model = fit_quantile_normalisation(frame[batch == "a"])
    mapped = model.apply(frame[batch == "c"])
    np.testing.assert_allclose(np.sort(mapped.to_numpy(), axis=1), np.tile(model.target, (12, 1)))
    pd.testing.assert_frame_equal(model.apply(frame[batch == "c"].iloc[:1]), mapped.iloc[:1])
