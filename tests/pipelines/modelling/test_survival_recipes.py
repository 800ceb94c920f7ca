"""Recipes for image signatures: redundant columns go without an outcome, the sequence with the signal stays."""

import numpy as np
import pytest

from pipelines.modelling.signature import ElasticNetCox
from pipelines.modelling.survival_recipes import (
    KnownRisk,
    SequenceForestCox,
    UncorrelatedCox,
    fit_within,
    keep_uncorrelated,
    sequence_of,
    survival_classes,
)
from services.shared.errors import InvalidTable

BASE = ElasticNetCox(folds=5, smallest_ratio=0.05)


def draw(*, patients: int = 120, columns: int = 30, effect: float = 0.0, at: int = 0, seed: int = 3):
    """Raw values with an exponential survival that depends on one column; a third is censored."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(patients, columns))
    death = rng.exponential(24 * np.exp(-effect * x[:, at]))
    censoring = rng.exponential(48, patients)
    return x * 50 + 100, np.minimum(death, censoring) + 0.1, (death <= censoring).astype(np.int64)


def test_of_repeated_columns_one_stays():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(80, 12))
    copies = np.hstack([z, z + 0.01 * rng.normal(size=z.shape), -z])
    kept = keep_uncorrelated(copies, limit=0.9)
    assert sorted(kept % 12) == list(range(12))
    r = np.abs(np.corrcoef(copies[:, kept], rowvar=False))
    assert r[np.triu_indices(len(kept), 1)].max() <= 0.9
    assert (keep_uncorrelated(z[:, :1], limit=0.9) == [0]).all()


def test_signature_recovers_the_planted_column_among_copies():
    x, months, event = draw(effect=1.2, at=4)
    noise = 5 * np.random.default_rng(2).normal(size=x.shape)
    both = np.hstack([x, x + noise])
    names = [f"f{j}" for j in range(both.shape[1])]
    fitted = UncorrelatedCox(BASE).fit(both, months, event, names=names, seed=1)
    strongest = fitted.scaling.columns[np.argmax(np.abs(fitted.coefficients))]
    assert strongest % 30 == 4
    assert fitted.coefficients.max() > 0.5
    assert fitted.steps["given"] == 60
    assert fitted.steps["uncorrelated"] == 30
    assert list(fitted.steps) == ["given", "usable", "uncorrelated", "screened", "weighted"]
    z = fitted.scaling.z_scores(both)
    assert np.allclose(z.mean(axis=0), 0)


def test_a_known_risk_is_stretched_and_never_turned_round():
    x, months, event = draw(columns=1, effect=1.2)
    fitted = KnownRisk().fit(x, months, event, names=["risk"], seed=1)
    assert fitted.coefficients[0] == pytest.approx(1.2, abs=0.25)  # log hazard ratio per standard deviation
    turned = KnownRisk().fit(-x, months, event, names=["risk"], seed=1)
    scores = turned.scaling.z_scores(-x) @ turned.coefficients
    assert scores == pytest.approx((-x + x.mean())[:, 0])
    with pytest.raises(InvalidTable, match="more than one risk"):
        KnownRisk().fit(np.hstack([x, x]), months, event, names=["a", "b"], seed=1)


def test_redundancy_does_not_look_at_the_outcome():
    x, months, event = draw(effect=1.0)
    once = UncorrelatedCox(BASE).fit(x, months, event, names=[str(j) for j in range(30)], seed=1)
    order = np.random.default_rng(5).permutation(len(months))
    again = UncorrelatedCox(BASE).fit(x, months[order], event[order], names=[str(j) for j in range(30)], seed=1)
    assert once.steps["uncorrelated"] == again.steps["uncorrelated"]


def test_positions_are_those_of_the_whole_table():
    x, months, event = draw(effect=1.2, at=20)
    fitted = fit_within(BASE, np.array([20, 25, 29]), x, months, event, names=[f"f{j}" for j in range(30)], seed=0)
    assert set(fitted.scaling.columns) <= {20, 25, 29}
    assert 20 in fitted.scaling.columns
    assert np.allclose(fitted.scaling.means[0], x[:, 20].mean())
    assert "f20" in set(fitted.tables["screening"]["feature"])


@pytest.mark.parametrize(
    ("name", "sequence"),
    [
        ("TEXTURE_GLCM_ET_T1Gd_Contrast", "T1c"),
        ("T1GD_ET_Intensity_Mean", "T1c"),
        ("WT_T1w_original_firstorder_Mean", "T1"),
        ("HISTO_ED_T1_Bin3", "T1"),
        ("t2w_wt_mean", "T2"),
        ("INTENSITY_Mean_ET_FLAIR", "FLAIR"),
        ("VOLUME_ET", None),
        ("TGM_T_1", None),
    ],
)
def test_names_tell_the_sequence(name, sequence):
    assert sequence_of(name) == sequence


def test_whoever_was_censored_early_has_no_class():
    found = survival_classes(np.array([2.0, 4.0, 6.0, 8.0, 10.0]), np.array([1, 0, 1, 0, 1]))
    assert found.median_months == 6
    assert found.rows.tolist() == [0, 2, 3, 4]
    assert found.outcome.tolist() == [1, 1, 0, 0]


def sequences_table(*, seed: int = 3):
    x, months, event = draw(columns=36, effect=1.5, at=13, patients=160, seed=seed)
    names = [f"F{j}_{('T1', 'T1c', 'T2')[j // 12]}" for j in range(35)] + ["VOLUME_WT"]
    return x, months, event, names


def test_the_sequence_with_the_signal_stays():
    x, months, event, names = sequences_table()
    recipe = SequenceForestCox(ElasticNetCox(screen_p=None, folds=3, smallest_ratio=0.05), trees=50, picks=5)
    fitted = recipe.fit(x, months, event, names=names, seed=1)
    table = fitted.tables["sequences"].set_index("sequence")
    assert table.loc["T1c", "kept"]
    assert table.loc["T1c", "auc"] > 0.7
    assert table["kept"].sum() == 1
    assert set(fitted.scaling.columns) <= {*range(12, 24), 35}
    assert 13 in fitted.scaling.columns
    assert fitted.steps["forest"] == 5
    assert table["short"].iloc[0] + table["long"].iloc[0] + table["unknown"].iloc[0] == 160


def test_same_seed_same_signature_and_another_order_of_deaths_another():
    x, months, event, names = sequences_table()
    recipe = SequenceForestCox(ElasticNetCox(screen_p=None, folds=3, smallest_ratio=0.05), trees=20, picks=5)
    first, second = (recipe.fit(x, months, event, names=names, seed=7) for _ in range(2))
    assert first.coefficients.tobytes() == second.coefficients.tobytes()
    assert first.tables["sequences"].equals(second.tables["sequences"])


def test_without_two_early_deaths_the_first_sequence_is_taken_and_says_so():
    x, months, event, names = sequences_table()
    event = np.where(months > np.median(months), event, 0)  # nobody dies before the median
    recipe = SequenceForestCox(ElasticNetCox(screen_p=None, folds=3, smallest_ratio=0.05), trees=20)
    fitted = recipe.fit(x, months, event, names=names, seed=1)
    table = fitted.tables["sequences"]
    assert table["auc"].isna().all()
    assert table.loc[table["kept"], "sequence"].tolist() == ["T1c"]


def test_columns_of_no_sequence_count_as_one():
    x, months, event = draw(columns=8, effect=1.0)
    recipe = SequenceForestCox(ElasticNetCox(screen_p=None, folds=3, smallest_ratio=0.05), trees=20)
    fitted = recipe.fit(x, months, event, names=[f"VOLUME_{j}" for j in range(8)], seed=1)
    assert fitted.tables["sequences"]["sequence"].tolist() == ["none"]
