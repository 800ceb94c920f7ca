"""Parts of a cohort are disjoint and balanced, or as stated; a predictor learns score and cut-off on training alone."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest

from pipelines.modelling.signature import ElasticNetCox
from pipelines.modelling.survival_data import SurvivalData, survival_data
from pipelines.modelling.survival_parts import (
    SignaturePredictor,
    evaluate_predictor,
    split_parts,
    take_columns,
    usable_horizons,
    weighted_log_rank,
)
from services.shared.errors import InvalidTable, TooFewCases


def draw(*, patients: int = 300, effect: float = 1.0, seed: int = 4, stated: bool = False) -> SurvivalData:
    rng = np.random.default_rng(seed)
    ids = [f"P{n:03d}" for n in range(patients)]
    x = rng.normal(size=(patients, 10))
    death, censoring = rng.exponential(18 * np.exp(-effect * x[:, 0])), rng.exponential(60, patients)
    clinical = pd.DataFrame(
        {"os_months": np.minimum(death, censoring) + 0.1, "event": (death <= censoring).astype(int)}, index=ids
    )
    if stated:
        clinical["split"] = np.resize(["train", "train", "Tuning", "internal"], patients)
    return survival_data(pd.DataFrame(x, index=ids).add_prefix("f"), clinical)


PREDICTOR = SignaturePredictor(
    {f"l1_{r:g}": ElasticNetCox(l1_ratio=r, folds=5, smallest_ratio=0.05) for r in (1.0, 0.5)}, "x_tile", (12, 24)
)


def test_parts_are_disjoint_and_of_the_published_shares():
    data = draw()
    parts = split_parts(data, tuning=96 / 477, internal=99 / 576, seed=1)
    ids = [set(part.ids) for part in parts.named.values()]
    assert set.union(*ids) == set(data.ids)
    assert sum(map(len, ids)) == 300
    assert abs(len(parts.internal.ids) - 300 * 99 / 576) <= 1
    assert abs(len(parts.tuning.ids) - 300 * (477 / 576) * 96 / 477) <= 2
    assert split_parts(data, tuning=0.2, internal=0.2, seed=1).train.ids != parts.train.ids


def test_each_part_counts_the_others_as_left_out():
    data = draw()
    for name, part in split_parts(data, tuning=0.2, internal=0.2, seed=1).named.items():
        assert part.flow["patients_studied"] == len(part.ids)
        assert part.flow["deaths"] == part.event.sum()
        assert len(part.flow["patients_excluded"]) == len(data.ids) - len(part.ids)
        assert f"in the {name} part" not in part.flow["patients_excluded"].values()


def test_parts_are_balanced_by_event_and_follow_up():
    data = draw()
    parts = split_parts(data, tuning=0.2, internal=0.2, seed=1)
    thirds = np.quantile(data.months, [1 / 3, 2 / 3])
    for part in parts.named.values():
        assert part.event.mean() == pytest.approx(data.event.mean(), abs=0.03)
        counts = np.bincount(np.searchsorted(thirds, part.months), minlength=3) / len(part.ids)
        assert np.abs(counts - 1 / 3).max() < 0.04


def test_a_stated_split_is_kept():
    parts = split_parts(draw(stated=True), tuning=0.5, internal=0.5, seed=1)
    assert [len(part.ids) for part in parts.named.values()] == [150, 75, 75]
    assert set(parts.tuning.clinical["split"]) == {"Tuning"}


def test_nobody_is_kept_aside_where_the_shares_are_nil():
    parts = split_parts(draw(patients=60), tuning=0, internal=0, seed=1)
    assert list(parts.named) == ["train"]
    name, _, table = PREDICTOR.choose(parts.train, parts.tuning, seed=1)
    assert name == "l1_1"
    assert table["tuning_c_index"].isna().all()


def test_bad_splits_are_refused():
    data = draw(stated=True)
    clinical = data.clinical.assign(split="test")
    with pytest.raises(InvalidTable, match="part that is not known"):
        split_parts(replace(data, clinical=clinical), tuning=0.2, internal=0.2, seed=1)
    clinical = data.clinical.assign(split=["train"] * 299 + [None])
    with pytest.raises(InvalidTable, match="a missing value"):
        split_parts(replace(data, clinical=clinical), tuning=0.2, internal=0.2, seed=1)
    with pytest.raises(TooFewCases, match="train"):
        split_parts(draw(patients=12), tuning=0.2, internal=0.2, seed=1)
    with pytest.raises(TooFewCases, match="train"):
        split_parts(replace(data, clinical=data.clinical.assign(split="internal")), tuning=0, internal=0, seed=1)


def test_tuning_patients_choose_and_internal_ones_are_not_seen():
    data = draw(stated=True)
    parts = split_parts(data, tuning=0, internal=0, seed=1)
    name, signature, table = PREDICTOR.choose(parts.train, parts.tuning, seed=1)
    assert table.loc[table["chosen"], "candidate"].tolist() == [name]
    assert table.loc[table["chosen"], "tuning_c_index"].item() == table["tuning_c_index"].max()
    assert "f0" in signature.model.columns
    internal = np.flatnonzero(data.clinical["split"] == "internal")
    months = data.months.copy()
    months[internal] = months[internal][::-1] * 3
    other = split_parts(replace(data, months=months), tuning=0, internal=0, seed=1)
    assert PREDICTOR.choose(other.train, other.tuning, seed=1)[1].model.threshold == signature.model.threshold


@dataclass(frozen=True)
class _Oracle:
    """Stands in for a network: scores by a table of its own."""

    table: dict[str, float]

    def scores(self, data: SurvivalData) -> np.ndarray:
        return np.array([self.table[i] for i in data.ids])


@dataclass(frozen=True)
class _OracleNetwork:
    table: dict[str, float]
    name: str = "oracle"

    def fit(self, train: SurvivalData, tuning: SurvivalData, *, seed: int) -> _Oracle:
        assert not set(train.ids) & set(tuning.ids)
        return _Oracle(self.table)


def test_any_predictor_of_risk_is_evaluated_alike():
    data = draw(effect=1.5)
    parts = split_parts(data, tuning=0.2, internal=0.25, seed=1)
    network = _OracleNetwork(dict(zip(data.ids, data.values[:, 0], strict=True)))
    found = evaluate_predictor(
        network, parts, cutoff="x_tile", horizons=(12,), bootstraps=50, seed=1, others={"elsewhere": parts.internal}
    )
    assert list(found.figures) == ["train", "tuning", "internal", "elsewhere"]
    internal = found.figures["internal"].metrics
    assert internal["c_index"] > 0.7
    assert internal["c_index_low"] < internal["c_index"] < internal["c_index_high"]
    assert internal["hazard_ratio"] > 1
    assert internal["patients_high_risk"] == (parts.internal.values[:, 0] >= found.cutoff).sum()
    signature = evaluate_predictor(PREDICTOR, parts, cutoff="x_tile", horizons=(12,), bootstraps=0, seed=1)
    assert signature.figures["internal"].metrics["c_index"] > 0.65


def test_weighted_test_weighs_early_deaths_more():
    months = np.arange(1.0, 41)
    early = months <= 10  # who dies early is at high risk; afterwards the groups mix
    high = early | (np.arange(40) % 3 == 0)
    event = np.ones(40, dtype=int)
    found = weighted_log_rank(months, event, high)
    assert found is not None
    assert 0 < found < 0.05
    assert weighted_log_rank(months, event, np.ones(40, dtype=bool)) is None


def test_columns_are_taken_in_their_order():
    data = draw(patients=30)
    some = take_columns(data, ["f7", "f2"])
    assert some.columns == ("f2", "f7")
    assert (some.values == data.values[:, [2, 7]]).all()


def test_horizons_need_deaths_before_and_patients_beyond():
    data = draw(patients=40)
    months = np.linspace(1, 40, 40)
    data = replace(data, months=months, event=np.ones(40, dtype=np.int64))
    assert usable_horizons(data, (3, 12, 38)) == (
        (12,),
        {
            "3": "3 deaths before and 37 patients beyond, fewer than 5",
            "38": "38 deaths before and 2 patients beyond, fewer than 5",
        },
    )
    with pytest.raises(TooFewCases, match="no horizon"):
        usable_horizons(data, (1, 60))
