"""What the papers behind the studies report, and why our figures are not theirs.

Every figure is a fact of the paper named beside it; nothing here is computed by us.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedFigure:
    """One figure of a paper.

    Parameters
    ----------
    figure
        Which of ours it is of the kind of: ``auc``, ``c_index``, ``auc_12``, ``hazard_ratio`` …; see :data:`FIGURES`.
    where
        Model and patients, in words.
    value, low, high
        With the 95 % interval where the paper gives one.
    """

    figure: str
    where: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Paper:
    """A paper's figures.

    Parameters
    ----------
    title
        What the study asks, as a heading.
    source
        The paper.
    figures
        The first is the nearest to our headline figure.
    differs
        What differs whatever public data the study is given.
    """

    title: str
    source: str
    figures: tuple[PublishedFigure, ...]
    differs: str


FIGURES: Mapping[str, str] = {
    "auc": "AUC",
    "accuracy": "Accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "c_index": "C-index",
    "auc_12": "AUC at 1 year",
    "auc_24": "AUC at 2 years",
    "auc_36": "AUC at 3 years",
    "auc_60": "AUC at 5 years",
    "hazard_ratio": "Hazard ratio, high against low",
    "patients_high_risk": "Patients of high risk",
    "median_months_high_risk": "Median survival at high risk, months",
    "median_months_low_risk": "Median survival at low risk, months",
    "ibs": "Integrated Brier score",
    "nomogram_c_index_clinical": "C-index, clinical nomogram",
    "nomogram_c_index_integrated": "C-index, integrated nomogram",
    "nomogram_c_index_difference": "C-index, integrated less clinical",
    "nomogram_c_index_difference_p": "C-index, integrated less clinical: p",
    "nomogram_nri": "Net reclassification improvement, total",
    "nomogram_aic_clinical": "AIC, clinical nomogram",
    "nomogram_aic_integrated": "AIC, integrated nomogram",
    "nomogram_likelihood_ratio": "Likelihood ratio of the score",
    "nomogram_likelihood_ratio_p": "Likelihood ratio of the score: p",
}
"""Figures by name: how they are printed."""

_FERROPTOSIS = "Front Neurosci 2022;16:1082867"
_DIFFUSION = "EBioMedicine 2021;72:103583"
_GRADING = "Front Oncol 2022;12:969907"
_ATRX = "Quant Imaging Med Surg 2024;14(1):251-263"


def _years(where: str, *values: float) -> tuple[PublishedFigure, ...]:
    return tuple(PublishedFigure(f"auc_{12 * year}", where, value) for year, value in enumerate(values, start=1))


PAPERS: Mapping[str, Paper] = {
    "grading": Paper(
        title="High-grade against low-grade glioma",
        source=_GRADING,
        figures=(
            PublishedFigure("auc", "radiomics of T1-Gd alone", 0.894),
            PublishedFigure("auc", "network with squeeze-and-excitation alone, on patches", 0.852, 0.846, 0.858),
            PublishedFigure("auc", "radiomics and network on patches", 0.958, 0.955, 0.961),
            PublishedFigure("accuracy", "radiomics and network on patches", 0.941),
            PublishedFigure("sensitivity", "radiomics and network on patches", 0.971),
        ),
        differs=(
            "The paper adds 512 features of a network to radiomics of T1, T1-Gd and T2 of its own patients, and tests "
            "on a fixed split; here every figure is out of fold."
        ),
    ),
    "atrx": Paper(
        title="ATRX mutant against wild type",
        source=_ATRX,
        figures=(
            PublishedFigure("auc", "overall radiomics, test", 0.916, 0.819, 1.0),
            PublishedFigure("auc", "overall radiomics, training", 0.917, 0.879, 0.962),
            PublishedFigure("auc", "overall radiomics, validation", 0.898, 0.751, 1.0),
            PublishedFigure("auc", "overall deep learning, test", 0.903, 0.814, 0.992),
            PublishedFigure("auc", "overall hybrid, training", 0.966, 0.948, 0.991),
            PublishedFigure("auc", "overall hybrid, validation", 0.916, 0.822, 0.999),
            PublishedFigure("auc", "overall hybrid, test", 0.936, 0.859, 1.0),
            PublishedFigure("auc", "clinical, training", 0.677, 0.586, 0.766),
            PublishedFigure("auc", "clinical, validation", 0.641, 0.489, 0.796),
            PublishedFigure("auc", "clinical, test", 0.772, 0.624, 0.92),
            PublishedFigure("auc", "fusion, training", 0.969, 0.964, 0.997),
            PublishedFigure("auc", "fusion, validation", 0.956, 0.878, 1.0),
            PublishedFigure("auc", "fusion, test", 0.949, 0.89, 1.0),
        ),
        differs=(
            "The paper's 234 patients all have IDH-mutant astrocytoma of grade 3 or 4 and come from three hospitals; "
            "its models add features of a network and the VASARI score."
        ),
    ),
    "ferroptosis": Paper(
        title="Survival by the expression of ferroptosis genes",
        source=_FERROPTOSIS,
        figures=(
            *_years("training (TCGA, 563 patients)", 0.899, 0.917, 0.930),
            *_years("validation (CGGA 693 and 325)", 0.765, 0.834, 0.826),
        ),
        differs=(
            "The paper starts from 270 expressed ferroptosis genes in RNA sequencing (FPKM), compares tumours with "
            "normal tissue of GTEx, and keeps 23 genes; a cohort with fewer of these genes or without normal tissue "
            "cannot repeat that. Its training figures are apparent ones: of the patients that the score was fitted to."
        ),
    ),
    "ferroptosis_imaging": Paper(
        title="Ferroptosis risk group from images",
        source=_FERROPTOSIS,
        figures=(
            PublishedFigure("auc", "tumour core, mean of 3 folds", 0.781),
            PublishedFigure("auc", "whole tumour, mean of 3 folds", 0.781),
            PublishedFigure("accuracy", "tumour core, mean of 3 folds", 0.842),
            PublishedFigure("accuracy", "whole tumour, mean of 3 folds", 0.825),
            PublishedFigure("sensitivity", "tumour core, mean of 3 folds", 0.671),
            PublishedFigure("sensitivity", "whole tumour, mean of 3 folds", 0.705),
            PublishedFigure("specificity", "tumour core, mean of 3 folds", 0.891),
            PublishedFigure("specificity", "whole tumour, mean of 3 folds", 0.857),
        ),
        differs=(
            "The paper trains a 3D network on the images of 122 patients (28 of high risk); from published radiomics, "
            "a classifier of features takes its place. The risk groups themselves come from our signature."
        ),
    ),
    "diffusion": Paper(
        title="Survival by diffusion imaging",
        source=_DIFFUSION,
        figures=(
            PublishedFigure("c_index", "deep-learning signature, training", 0.825, 0.794, 0.856),
            PublishedFigure("c_index", "deep-learning signature, tuning", 0.745, 0.659, 0.831),
            PublishedFigure("c_index", "deep-learning signature, internal validation", 0.746, 0.675, 0.817),
            PublishedFigure("c_index", "deep-learning signature, external validation", 0.794, 0.725, 0.863),
            PublishedFigure("c_index", "deep-learning signature, public validation", 0.789),
            PublishedFigure("hazard_ratio", "training", 11.85, 7.931, 17.7),
            PublishedFigure("hazard_ratio", "internal validation", 4.471, 2.204, 9.071),
            PublishedFigure("hazard_ratio", "external validation", 8.34, 6.54, 18.43),
            PublishedFigure("nomogram_c_index_clinical", "training", 0.805, 0.732, 0.810),
            PublishedFigure("nomogram_c_index_clinical", "internal validation", 0.791, 0.710, 0.871),
            PublishedFigure("nomogram_c_index_clinical", "external validation", 0.771, 0.714, 0.896),
            PublishedFigure("nomogram_c_index_integrated", "training", 0.835, 0.806, 0.865),
            PublishedFigure("nomogram_c_index_integrated", "internal validation", 0.840, 0.785, 0.895),
            PublishedFigure("nomogram_c_index_integrated", "external validation", 0.903, 0.859, 0.946),
            PublishedFigure("nomogram_nri", "integrated against clinical nomogram", 0.646, 0.552, 0.773),
        ),
        differs=(
            "The paper's signature is a network on crops of FA, MD, AD and RD maps of gliomas of grade 2 to 4; a table "
            "of radiomics stands in for the network here. "
            "Among patients of all grades, grade and IDH alone order survival well; in a cohort of glioblastoma alone "
            "neither can, so a lower C-index is to be expected."
        ),
    ),
    "grading_survival": Paper(
        title="Survival of lower-grade glioma by imaging",
        source=_GRADING,
        figures=(
            PublishedFigure("nomogram_c_index_integrated", "internal validation", 0.873, 0.840, 0.906),
            PublishedFigure("nomogram_c_index_integrated", "external validation", 0.865, 0.851, 0.879),
            PublishedFigure("nomogram_c_index_clinical", "internal validation", 0.770, 0.720, 0.820),
            PublishedFigure("nomogram_c_index_clinical", "external validation", 0.796, 0.787, 0.805),
        ),
        differs=(
            "The paper's signature joins radiomics of T1-Gd with features of a network that also learns the grade, "
            "in 112 patients of one hospital and 61 others; here radiomics stand alone."
        ),
    ),
}
"""Papers by study."""

DIFFERENCES: Mapping[str, str] = {
    "ferroptosis-tcga": (
        "Expression comes as z-scores of 1,544 cancer-signature genes, of which only the ferroptosis genes among them "
        "can enter; there is no normal tissue, so no gene is chosen against it. The z-scores seem to have been made "
        "within lower-grade glioma and within glioblastoma: genes that part the grades hardly differ, so most of what "
        "separates the paper's patients is not in this matrix. "
        "The validation cohorts are microarrays of high-grade glioma, where grade no longer separates patients: the "
        "paper's validation covers grades 2 to 4."
    ),
    "ferroptosis-freije": (
        "Microarrays of a small cohort of grade 3 and 4 glioma train here, where the paper has 563 patients of grades "
        "2 to 4: fewer deaths and a narrower range of survival."
    ),
    "ferroptosis-imaging": (
        "Only patients with both published radiomics and expression can be studied: fewer than the paper's 122."
    ),
    "diffusion-upenn": (
        "Every patient has glioblastoma, nearly all of IDH wild type, and all but a few died: neither grade nor IDH "
        "can tell patients apart. Radiomics of oedema, enhancing tumour and necrosis on diffusion maps, as published, "
        "without the maps themselves."
    ),
    "grading-bakas": (
        "Glioblastoma against lower-grade glioma of TCGA with published radiomics of expert outlines; no image, so no "
        "feature of a network."
    ),
    "grading-survival-bakas": (
        "Lower-grade gliomas of TCGA with few deaths: the intervals are wide, and no second hospital is at hand."
    ),
    "atrx-bakas": (
        "Lower-grade glioma of TCGA whatever the IDH status; 1p/19q-codeleted tumours are ATRX wild type, so a model "
        "may tell oligodendroglioma from astrocytoma."
    ),
    "atrx-bakas-idh-mutant": (
        "IDH-mutant lower-grade glioma of TCGA: nearer to the paper's patients, but of grade 2 and 3 and fewer."
    ),
    "atrx-bakas-astrocytoma": (
        "The paper's own question, but in a few patients of grade 2 and 3 instead of 234 of grade 3 and 4, without "
        "deep features and without VASARI."
    ),
    "atrx-mu-glioma-post": (
        "Scans after surgery, radiomics of the tumour core that were chosen for another outcome (progression), and all "
        "grades together: age and grade alone tell most of it."
    ),
}
"""Why an experiment's figures differ from the paper's, by experiment."""
