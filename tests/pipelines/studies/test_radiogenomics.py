"""Pathways behind a risk score: planted genes are found on the phantom, none on the null one; bad input."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.datasets.bakas import read_bakas
from pipelines.datasets.porpoise import read_release as read_porpoise
from pipelines.genomics.gene_sets import read_gmt
from pipelines.phantom.clinic import draw_patient
from pipelines.phantom.expression import NOISE_GENES, SIGNATURE_GENES, draw_expression
from pipelines.studies.radiogenomics import (
    GeneCutoff,
    apply_gene_cutoff,
    correlate_with_images,
    fit_gene_cutoff,
    radiogenomics,
)
from services.shared.contracts import case_label
from services.shared.errors import IdMismatch, InvalidTable, InvalidValue, TooFewCases

UP = tuple(gene for gene, sign in SIGNATURE_GENES.items() if sign > 0)
COLLECTIONS = {
    "Planted": {"up": UP, "down": tuple(set(SIGNATURE_GENES) - set(UP))},
    "Other": {f"noise{n}": NOISE_GENES[n * 10 : n * 10 + 10] for n in range(12)},
}


def draw(*, null: bool, patients: int = 78) -> dict[str, pd.DataFrame | pd.Series]:
    cohort = [draw_patient(5, n, subset="study", null=null) for n in range(patients)]
    expression, counts = draw_expression(5, cohort, null=null)
    clinical = pd.DataFrame([patient.row for patient in cohort]).set_index("participant_id")
    noise = np.random.default_rng(1).normal(0, 0.5, patients)
    score = (clinical["risk_group"] == "high") + pd.Series(noise, index=clinical.index)
    return {
        "expression": expression,
        "counts": counts,
        "scores": score,
        "groups": clinical["risk_group"],
        "clinical": clinical,
    }


@pytest.fixture(scope="module")
def planted():
    return draw(null=False)


@pytest.mark.parametrize(("matrix", "kind"), [("counts", "counts"), ("expression", "log2")])
def test_planted_genes_and_sets_are_found(planted, matrix, kind):
    found = radiogenomics(planted[matrix], planted["scores"], planted["groups"], COLLECTIONS, kind=kind)
    chosen = set(found.differential.query("chosen")["gene"])
    assert len(chosen & set(SIGNATURE_GENES)) >= 20
    # The first ten noise genes rise with grade, which goes with risk.
    assert {"up", "down"} <= set(found.enrichment.query("enriched")["gene_set"]) <= {"up", "down", "noise0"}
    assert found.correlations.set_index("pathway")["r"]["Planted:up"] > 0.4
    assert found.correlations.set_index("pathway")["r"]["Planted:down"] < -0.4
    assert set(SIGNATURE_GENES) <= set(found.genes)
    assert found.flow["patients"] == 78


def test_null_phantom_has_no_pathway():
    null = draw(null=True)
    found = radiogenomics(null["counts"], null["scores"], null["groups"], COLLECTIONS)
    assert found.flow["sets_correlated"] == 0
    assert found.genes == ()
    assert list(found.correlations.columns) == ["pathway", "r", "p", "fdr", "correlated"]
    with pytest.raises(TooFewCases, match="no gene"):
        fit_gene_cutoff(null["expression"], [1.0] * 78, [1] * 78, genes=found.genes, scale="log2(FPKM + 1)")


def test_order_of_rows_changes_nothing(planted):
    once = radiogenomics(planted["counts"], planted["scores"], planted["groups"], COLLECTIONS)
    again = radiogenomics(planted["counts"].iloc[::-1], planted["scores"].sample(frac=1, random_state=2),
                          planted["groups"], COLLECTIONS)  # fmt: skip
    pd.testing.assert_frame_equal(once.enrichment, again.enrichment)
    pd.testing.assert_frame_equal(once.pathways, again.pathways)


def test_cutoff_learnt_here_parts_survival_there(planted):
    clinical, expression = planted["clinical"], planted["expression"]
    first, second = clinical.index[:40], clinical.index[40:]
    cutoff = fit_gene_cutoff(
        expression.loc[first], clinical.loc[first, "os_months"], clinical.loc[first, "event"], genes=UP, scale="log2"
    )
    groups = apply_gene_cutoff(
        cutoff, expression.loc[second], clinical.loc[second, "os_months"], clinical.loc[second, "event"], scale="log2"
    )
    assert groups.hazard_ratio > 1
    assert groups.lower < groups.hazard_ratio < groups.upper
    means = expression.loc[second, list(UP)].mean(axis=1)
    assert (groups.groups == np.where(means > cutoff.cut, "high", "low")).all()


def test_cutoff_is_refused_where_it_means_nothing(planted):
    expression = planted["expression"]
    months, event = planted["clinical"]["os_months"], planted["clinical"]["event"]
    cutoff = GeneCutoff(UP, 100.0, "log2", 0.01)
    with pytest.raises(InvalidTable, match="another scale"):
        apply_gene_cutoff(cutoff, expression, months, event, scale="counts")
    with pytest.raises(InvalidTable, match="one side"):
        apply_gene_cutoff(cutoff, expression, months, event, scale="log2")
    with pytest.raises(IdMismatch, match="1 of"):
        apply_gene_cutoff(cutoff, expression.drop(columns=UP[0]), months, event, scale="log2")


def test_bad_input_is_refused(planted):
    counts, scores, groups = planted["counts"], planted["scores"], planted["groups"]
    with pytest.raises(IdMismatch, match="share no patient"):
        radiogenomics(counts, scores.rename(index=lambda i: f"x{i}"), groups, COLLECTIONS)
    with pytest.raises(IdMismatch, match="twice"):
        radiogenomics(pd.concat([counts, counts.iloc[:1]]), scores, groups, COLLECTIONS)
    with pytest.raises(InvalidValue, match="risk group"):
        radiogenomics(counts, scores, groups.replace("high", "very high"), COLLECTIONS)
    with pytest.raises(InvalidTable, match="one value"):
        radiogenomics(counts, scores, pd.Series("high", index=groups.index), COLLECTIONS)
    with pytest.raises(InvalidTable):
        radiogenomics(counts + 0.5, scores, groups, COLLECTIONS)
    with pytest.raises(TooFewCases, match="collection"):
        radiogenomics(counts, scores, groups, {})
    with pytest.raises(IdMismatch, match="overlap"):
        radiogenomics(counts, scores, groups, {"Entrez": {"a": ("960", "27035")}})


def test_pairs_are_adjusted_together():
    rng = np.random.default_rng(3)
    index = [f"P{n}" for n in range(40)]
    images = pd.DataFrame(rng.normal(size=(40, 30)), index=index).rename(columns=lambda c: f"f{c}")
    pathways = pd.DataFrame({"linked": images["f3"] + rng.normal(0, 0.5, 40), "free": rng.normal(size=40)}, index=index)
    pairs = correlate_with_images(pathways, images.iloc[::-1])
    assert len(pairs) == 60
    assert tuple(pairs.loc[0, ["pathway", "feature"]]) == ("linked", "f3")
    assert (pairs["fdr"] < 0.05).sum() == 1
    assert pairs["fdr"].iloc[0] == pytest.approx(60 * pairs["p"].iloc[0])


@pytest.mark.real
def test_published_image_components_and_pathways_of_61_patients(real_data: Path):
    """Mohammed et al. (2020) linked groups of components by Bayesian selection; no single pair survives 3,003 tests."""
    folder = real_data / "radiohead_tcga_lgg"
    pathways, images = (pd.read_csv(folder / f"{n}.csv", index_col=0) for n in ("c_pathway_scores", "pc_scores"))
    pairs = correlate_with_images(pathways, images)
    assert len(pairs) == 21 * 143
    assert pairs["p"].iloc[0] == pytest.approx(0.0022, abs=1e-4)
    assert (pairs["fdr"] > 0.05).all()


@pytest.mark.real
def test_enhancing_volume_and_hallmarks_of_tcga_patients(real_data: Path):
    """Bakas et al. radiomics against expression z-scores of 1,544 genes; 27 differ, one hallmark is enriched."""
    cohort = read_porpoise(real_data / "tcga_glioma_expression" / "porpoise_tcga_gbmlgg_all_clean.csv.zip")
    images = read_bakas(real_data / "tcia_bakas_radiomics").features
    share = images["VOLUME_ET_OVER_WT"].rename(case_label).dropna()
    groups = pd.Series(np.where(share > share.median(), "high", "low"), index=share.index)
    sets = read_gmt(real_data / "gene_sets_gmt" / "h.all.v7.0.symbols.gmt")
    found = radiogenomics(cohort.matrices["expression"], share, groups, {"Hallmark": sets}, kind="log2")
    assert found.flow["patients"] == 77
    assert found.flow["genes_different"] == 27
    assert list(found.enrichment.query("enriched")["gene_set"]) == ["HALLMARK_PI3K_AKT_MTOR_SIGNALING"]
    assert found.flow["sets_correlated"] == 0
