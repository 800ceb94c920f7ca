"""Importers: a release as its publisher lays it out → our cohort."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from services.shared.errors import GliaflowError, NotFound
from services.shared.storage import Storage

if TYPE_CHECKING:
    from pipelines.datasets.nifti import ImportedCase
    from pipelines.datasets.release import Release

IMPORTERS: dict[str, str] = {
    "bakas": "Published radiomics of 102 GBM and 65 LGG of TCGA: folder with TCGA_GBM_….csv and TCGA_LGG_….csv",
    "brats": "Name mappings and survival tables of BraTS 2017 to 2021: a file or the folder of them",
    "mu_glioma_post": "MU-Glioma-Post: folder with its clinical and its radiomics table",
    "radiohead": "RADIOHEAD: folder with pc_scores.csv and c_pathway_scores.csv of 61 TCGA-LGG patients",
    "ucsf_pdgm": "UCSF-PDGM: its metadata table, or the folder of it",
    "upenn_gbm": "UPENN-GBM: folder with its clinical table and the CaPTk radiomics",
    "tcga": "Clinical and survival data of TCGA gliomas: folder with Ceccarelli 2016 Table S1, TCGA-CDR and others",
    "porpoise": "PORPOISE's TCGA table of RNA-seq z-scores: tcga_gbmlgg_all_clean.csv (or .zip)",
    "tcga_expression": "A matrix of TCGA expression as UCSC Xena or cBioPortal lay it out",
    "cgga": "CGGA mRNAseq_693 or 325: folder with the clinical table and, where there are such, RSEM and counts",
    "gliovis": "A GlioVis export: <name>_expr.csv and <name>_pdata.csv (either, the path to <name>, or their folder)",
}
"""Releases of tables by name, with what to point the importer at; the module has the same name."""

IMAGE_IMPORTERS: dict[str, str] = {
    "nifti": "Folders of NIfTI images by case (BraTS 2013 and later, BIDS, TCIA and UCSF-PDGM names)",
    "lgg_segmentation": "The LGG segmentation set (Kaggle, Buda 2019): slices of T1, FLAIR, T1c with FLAIR masks",
}
"""Releases of images by name; the module has the same name and offers ``import_<name>``."""


class Importer(Protocol):
    """What an importer's module offers."""

    def read_release(self, source: Path, *, participants: Path | None = None) -> Release:
        """Read a release.

        Parameters
        ----------
        source
            File or folder, as the publisher lays it out.
        participants
            A further clinical table (CSV, TSV, or the folder of one of the clinical releases) to join, where the
            release itself has none.
        """


class ImageImporter(Protocol):
    """What copies a release's images into a cohort."""

    def __call__(
        self,
        storage: Storage,
        source: Path,
        cohort: str,
        *,
        participants: Path | None = None,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> tuple[list[ImportedCase], list[GliaflowError]]:
        """Return the imported cases and the problems of those that were left out."""


def image_importer(name: str) -> ImageImporter:
    """Return an importer of images by name, one of :data:`IMAGE_IMPORTERS`."""
    return cast(ImageImporter, getattr(importlib.import_module(f"pipelines.datasets.{name}"), f"import_{name}"))


def importer(name: str) -> Importer:
    """Return an importer by name.

    Raises
    ------
    NotFound
        Listing the importers that there are.
    """
    if name not in IMPORTERS:
        raise NotFound(
            "there is no importer of this name",
            field="name",
            got=name,
            expected=", ".join((*IMAGE_IMPORTERS, *IMPORTERS)),
        )
    return cast(Importer, importlib.import_module(f"pipelines.datasets.{name}"))
