from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.datasets.bakas import read_bakas
from pipelines.studies import ferroptosis_imaging
from pipelines.studies.ferroptosis_imaging import (
    FIGURES,
    Parameters,
    cross_validate_classifier,
    fold_figures,
    region_columns,
)
from services.shared.errors import InvalidTable, InvalidValue, OneClass

CLASSES = ferroptosis_imaging.CLASSES
FAST = {"inner_folds": 3, "permutations": 0, "trees": 20, "bootstraps": 50, "c": (1.0,), "gamma": (0.1,)}


class NearestMean:
    """A classifier of its own kind: whose mean image is nearer."""

    name = "nearest mean"
    threshold = 0.5

    def __init__(self, images: pd.DataFrame) -> None:
        self.images = images
        self.fitted: list[set[str]] = []
        self.asked: list[set[str]] = []

    def fit(self, ids: Sequence[str], labels: np.ndarray, *, seed: int) -> None:
        known = self.images.loc[list(ids)]
        self.means = [known[labels == value].mean() for value in (0, 1)]
        self.fitted.append(set(ids))

    def predict(self, ids: Sequence[str]) -> np.ndarray:
        self.asked.append(set(ids))
        distance = [((self.images.loc[list(ids)] - mean) ** 2).sum(axis=1) for mean in self.means]
        return (1 / (1 + np.exp(distance[1] - distance[0]))).to_numpy()


def make_images(cohort_maker, **changes: object) -> tuple[pd.DataFrame, pd.Series]:
    features, labels = cohort_maker(classes=CLASSES, patients=48, features=40, **changes)
    names = {f"planted{i}": f"TEXTURE_ET_T1Gd_{i}" for i in range(6)}
    names |= {f"noise{i:03d}": f"HISTO_{'NET' if i % 2 else 'ED'}_T1_Bin{i}" for i in range(40)}
    return features.rename(columns=names), labels


def test_figures_are_those_of_the_papers_first_fold():
    """5 of 7 high and 31 of 33 low patients called right: ACC 0.900, F1 0.900, sensitivity 0.714, specificity 0.939."""
    right = [1] * 5 + [0] * 2 + [0] * 31 + [1] * 2
    outcome = ["high"] * 7 + ["low"] * 33
    predictions = pd.DataFrame({"fold": 1, "outcome": outcome, "probability": np.float64(right), "threshold": 0.5})
    row = fold_figures(predictions).iloc[0]
    assert row["accuracy"] == pytest.approx(0.900, abs=5e-4)
    assert row["f1_weighted"] == pytest.approx(0.900, abs=5e-4)
    assert row["sensitivity"] == row["recall"] == pytest.approx(0.714, abs=5e-4)
    assert row["specificity"] == pytest.approx(0.939, abs=5e-4)
    assert row["precision"] == pytest.approx(5 / 7)
    assert row["f1"] == pytest.approx(5 / 7)


def test_the_mean_is_over_folds():
    predictions = pd.DataFrame(
        {
            "fold": [1, 1, 1, 1, 2, 2, 2, 2],
            "outcome": ["low", "high"] * 4,
            "probability": [0.1, 0.9, 0.2, 0.8, 0.9, 0.1, 0.2, 0.8],
            "threshold": 0.5,
        }
    )
    table = fold_figures(predictions).set_index("fold")
    assert table.loc["1", "auc"] == 1.0
    assert table.loc["2", "auc"] == 0.25
    assert table.loc["mean", "auc"] == 0.625
    assert table.loc["mean", "patients"] == 8


def test_a_classifier_plugs_in_and_never_sees_whom_it_is_asked_about(cohort_maker):
    images, labels = make_images(cohort_maker, shift=3.0)
    z = (images - images.mean()) / images.std()
    classifier = NearestMean(z.filter(like="TEXTURE"))
    found = cross_validate_classifier(classifier, labels, folds=3, seed=2)
    assert len(classifier.fitted) == 3
    assert all(not fitted & asked for fitted, asked in zip(classifier.fitted, classifier.asked, strict=True))
    assert set.union(*classifier.asked) == set(labels.index)
    assert found.metrics["auc"] > 0.9
    assert found.figures["fold"].tolist() == ["1", "2", "3", "mean"]
    assert found.figures.loc[:2, "high"].tolist() == [8, 8, 8]
    again = cross_validate_classifier(NearestMean(z.filter(like="TEXTURE")), labels.iloc[::-1], folds=3, seed=2)
    pd.testing.assert_frame_equal(again.predictions, found.predictions)


def test_a_classifier_that_gives_no_probability_is_refused(cohort_maker):
    images, labels = make_images(cohort_maker)

    class Wrong(NearestMean):
        def predict(self, ids: Sequence[str]) -> np.ndarray:
            return np.full(len(ids), 1.7)

    with pytest.raises(InvalidValue, match="nearest mean"):
        cross_validate_classifier(Wrong(images), labels)
    with pytest.raises(OneClass):
        cross_validate_classifier(NearestMean(images), labels.map(lambda _: "high"))


def test_regions_are_told_by_names():
    columns = ["VOLUME_ET", "TEXTURE_GLCM_NET_T2_Contrast", "VOLUME_ET_OVER_ED", "HISTO_ED_T1_Bin1", "SPATIAL_Frontal"]
    assert region_columns(columns, "TC") == ["VOLUME_ET", "TEXTURE_GLCM_NET_T2_Contrast"]
    assert region_columns(columns, "WT") == columns
    own = ["T1c_TC_original_glcm_Contrast", "mask_WT_original_shape_Sphericity", "FLAIR_ED_original_firstorder_Mean"]
    assert region_columns(own, "TC") == own[:1]
    with pytest.raises(InvalidTable, match="core"):
        region_columns(["HISTO_ED_T1_Bin1"], "TC")


def test_labels_are_the_risk_groups():
    participants = pd.DataFrame({"participant_id": ["sub-A", "sub-B", "sub-C"], "risk_group": ["High", "low", None]})
    labels = ferroptosis_imaging.read_labels(participants, pd.Index(["A", "B", "C"]))
    assert labels[["A", "B"]].tolist() == ["high", "low"]
    assert pd.isna(labels["C"])


def test_both_regions_are_evaluated_and_the_predictor_is_named(cohort_maker):
    images, labels = make_images(cohort_maker, shift=2.0)
    result = ferroptosis_imaging.run(images, labels, parameters=Parameters.model_validate(FAST), seed=4)
    table = result.more_tables["table_2"]
    assert table["region"].tolist() == ["TC"] * 4 + ["WT"] * 4
    assert table["fold"].tolist() == ["1", "2", "3", "mean"] * 2
    assert set(FIGURES) <= set(table)
    assert "no network" in result.flow["predictor"]
    assert result.metrics["wt_auc"] == result.metrics["auc"] > 0.8
    means = table.set_index(["region", "fold"])["auc"]
    assert result.metrics["tc_fold_auc"] == pytest.approx(means["TC", "mean"])
    core = ferroptosis_imaging.run(
        images, labels, parameters=Parameters.model_validate(FAST | {"region": "TC"}), seed=4
    )
    assert all("_ED_" not in name for name in core.model.columns)
    assert core.metrics["auc"] == result.metrics["tc_auc"]


@pytest.mark.real
def test_shuffled_groups_of_real_patients_are_not_predicted(real_data: Path):
    """Limits from few shuffled runs of small folds are wide; what must hold is that chance lies within them."""
    features = read_bakas(real_data / "tcia_bakas_radiomics").features
    rng = np.random.default_rng(11)
    chosen = features.iloc[np.sort(rng.permutation(len(features))[:70])]
    labels = pd.Series(np.where(rng.permutation(70) < 20, "high", "low"), index=chosen.index)
    result = ferroptosis_imaging.run(chosen, labels, parameters=Parameters.model_validate(FAST), seed=4)
    for region in ("tc", "wt"):
        assert result.metrics[f"{region}_auc_low"] < 0.5 < result.metrics[f"{region}_auc_high"]
