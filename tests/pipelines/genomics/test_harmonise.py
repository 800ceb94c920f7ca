from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipelines.genomics.harmonise import (
    RANKS_OF,
    harmonise,
    rank_within_samples,
    scale_kind,
    training_scale,
)
from services.shared.errors import IdMismatch, InvalidTable, InvalidValue, TooFewCases

GENES = [f"G{i:02d}" for i in range(20)]


def table(samples: int, *, seed: int, genes: list[str] = GENES, centre: float = 7.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    values = rng.normal(centre, 1.0, (samples, len(genes))) * rng.uniform(0.5, 2.0, len(genes))
    return pd.DataFrame(values, index=[f"S{i}" for i in range(samples)], columns=genes)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("z-score of RNA-seq (cBioPortal)", "z-score"),
        ("RNA zscores", "z-score"),
        ("log2 intensity", "log2"),
        ("log2(FPKM + 1)", "log2"),
        ("FPKM", "linear"),
        ("TPM", "linear"),
        ("log2(RSEM normalised count + 1)", "log2"),
        ("RSEM normalised count", "linear"),
        ("read counts", "counts"),
    ],
)
def test_words_tell_the_kind_of_values(words, kind):
    assert scale_kind(words) == kind


def test_an_unknown_scale_is_refused():
    with pytest.raises(InvalidValue, match="scale"):
        scale_kind("furlongs")


def test_reference_gives_the_training_mean_and_deviation_gene_by_gene():
    training = table(50, seed=1)
    onto = training_scale(training, "log2 intensity")
    values = harmonise(table(30, seed=2, centre=3.0), scale="log2 intensity", onto=onto, method="reference").values
    assert values.columns.tolist() == GENES
    np.testing.assert_allclose(values.mean(), training.mean())
    np.testing.assert_allclose(values.std(ddof=0), training.std(ddof=0))


def test_reference_undoes_any_shift_and_scale_of_a_platform():
    onto = training_scale(table(50, seed=1), "z-score")
    new = table(30, seed=2)
    rng = np.random.default_rng(3)
    distorted = new * rng.uniform(0.2, 5, 20) + rng.normal(size=20)
    first = harmonise(new, scale="z-score", onto=onto, method="reference").values
    second = harmonise(distorted, scale="log2 intensity", onto=onto, method="reference").values
    np.testing.assert_allclose(first, second)


def test_values_of_another_kind_are_refused_as_they_are():
    onto = training_scale(table(50, seed=1), "z-score of RNA-seq")
    with pytest.raises(InvalidTable, match="another kind") as caught:
        harmonise(table(30, seed=2), scale="log2 intensity", onto=onto, method="none", cohort="freije")
    assert "freije" in str(caught.value)
    assert "reference" in str(caught.value)


def test_values_of_one_kind_pass_as_they_are():
    new = table(3, seed=2)
    onto = training_scale(table(50, seed=1), "log2 intensity")
    shuffled = new[GENES[::-1]]
    values = harmonise(shuffled, scale="log2(FPKM + 1)", onto=onto, method="none").values
    pd.testing.assert_frame_equal(values, new)


def test_ranks_of_one_patient_do_not_depend_on_the_others():
    new = table(5, seed=2)
    onto = training_scale(rank_within_samples(table(50, seed=1)), f"{RANKS_OF}log2 intensity")
    together = harmonise(new, scale="log2 intensity", onto=onto, method="rank").values
    alone = harmonise(new.iloc[[3]] * 2 + 1, scale="log2 intensity", onto=onto, method="rank").values
    np.testing.assert_allclose(alone, together.iloc[[3]])
    assert together.min(axis=None) == pytest.approx(0.5 / 20)
    assert together.max(axis=None) == pytest.approx(19.5 / 20)


@pytest.mark.parametrize(("scale", "method"), [(f"{RANKS_OF}log2 intensity", "reference"), ("log2 intensity", "rank")])
def test_ranks_and_values_do_not_mix(scale, method):
    onto = training_scale(table(50, seed=1), scale)
    with pytest.raises(InvalidTable, match="Ranks and values"):
        harmonise(table(30, seed=2), scale="log2 intensity", onto=onto, method=method)


def test_ranks_of_z_scores_are_no_ranks_of_intensities():
    onto = training_scale(rank_within_samples(table(50, seed=1)), f"{RANKS_OF}z-score")
    with pytest.raises(InvalidTable, match="another kind"):
        harmonise(table(30, seed=2), scale="log2 intensity", onto=onto, method="rank")


def test_missing_genes_are_named():
    onto = training_scale(table(50, seed=1), "log2 intensity")
    with pytest.raises(IdMismatch, match="G03, G07") as caught:
        harmonise(
            table(30, seed=2).drop(columns=["G03", "G07"]),
            scale="log2 intensity",
            onto=onto,
            method="reference",
            cohort="joo",
        )
    assert "2 of 20 genes" in str(caught.value)
    assert "joo" in str(caught.value)


def test_missing_genes_count_as_average_where_asked_for():
    onto = training_scale(table(50, seed=1), "log2 intensity")
    new = table(30, seed=2).drop(columns="G03")
    result = harmonise(new, scale="log2 intensity", onto=onto, method="reference", missing_genes="training_mean")
    assert result.statement["genes_missing_set_to_training_mean"] == ["G03"]
    np.testing.assert_allclose(result.values["G03"], onto.means[3])
    strange = new.rename(columns=lambda name: f"ENSG{name}")
    with pytest.raises(IdMismatch, match="20 of 20"):
        harmonise(strange, scale="log2 intensity", onto=onto, method="reference", missing_genes="training_mean")


def test_a_gene_without_spread_counts_as_average_and_is_named():
    onto = training_scale(table(50, seed=1), "log2 intensity")
    result = harmonise(table(30, seed=2).assign(G05=4.2), scale="log2 intensity", onto=onto, method="reference")
    assert result.statement["genes_without_spread_set_to_training_mean"] == ["G05"]
    np.testing.assert_allclose(result.values["G05"], onto.means[5])
    assert np.isfinite(result.values.to_numpy()).all()


def test_too_few_samples_have_no_location_and_scale():
    onto = training_scale(table(50, seed=1), "log2 intensity")
    with pytest.raises(TooFewCases, match="rank"):
        harmonise(table(4, seed=2), scale="log2 intensity", onto=onto, method="reference")


def test_too_few_genes_have_no_ranks():
    with pytest.raises(TooFewCases, match="too few genes"):
        rank_within_samples(table(4, seed=2, genes=GENES[:4]))
