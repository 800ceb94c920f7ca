"""Importers: a release as its publisher lays it out → our cohort."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast, get_args, get_type_hints

from services.shared.errors import GliaflowError, InvalidValue, NotFound
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
    "upenn_gbm": "UPENN-GBM: folder with its clinical table and the CaPTk radiomics (--option "
    "segmentation=corrected_where_present instead of automatic)",
    "tcga": "Clinical and survival data of TCGA gliomas: folder with Ceccarelli 2016 Table S1, TCGA-CDR and others",
    "porpoise": "PORPOISE's TCGA table of RNA-seq z-scores: tcga_gbmlgg_all_clean.csv (or .zip)",
    "tcga_expression": "A matrix of TCGA expression as UCSC Xena or cBioPortal lay it out (--option scale=log2, "
    "linear, counts or z-score, where its name and values do not tell)",
    "cgga": "CGGA mRNAseq_693 or 325: folder with the clinical table and, where there are such, RSEM and counts",
    "gliovis": "A GlioVis export: <name>_expr.csv and <name>_pdata.csv (either, the path to <name>, or their folder)",
}
"""Releases of tables by name, with what to point the importer at; the module has the same name."""

IMAGE_IMPORTERS: dict[str, str] = {
    "nifti": "Folders of NIfTI images by case (BraTS 2013 and later, BIDS, TCIA and UCSF-PDGM names)",
    "lgg_segmentation": "The LGG segmentation set (Kaggle, Buda 2019): slices of T1, FLAIR, T1c with FLAIR masks",
}
"""Releases of images by name; the module has the same name and offers ``import_<name>``."""


@dataclass(frozen=True)
class Importer:
    """What reads a release of tables; :meth:`read_release` is its module's, with the options checked."""

    name: str
    read: Callable[..., Release]

    def read_release(self, source: Path, *, participants: Path | None = None, **options: str) -> Release:
        """Read a release.

        Parameters
        ----------
        source
            File or folder, as the publisher lays it out.
        participants
            A further clinical table (CSV, TSV, or the folder of one of the clinical releases) to join, where the
            release itself has none.
        options
            What the importer lets the user choose, see :meth:`options`.

        Raises
        ------
        InvalidValue
            Where there is no such option, or it has no such value.
        """
        from pipelines.datasets.source_tables import counting_blank_rows

        known = self.options()
        for option, value in options.items():
            if value not in known.get(option, ()):
                raise InvalidValue(
                    "the option has no such value" if option in known else "the importer has no such option",
                    step=f"import {self.name}",
                    field=option,
                    expected=", ".join(known.get(option, known)) or "no option",
                    got=value if option in known else option,
                )
        with counting_blank_rows() as blank:
            release = self.read(source, participants=participants, **options)
        return dataclasses.replace(release, counted={**release.counted, **blank})

    def options(self) -> dict[str, tuple[str, ...]]:
        """Return the values of each option that the importer has."""
        hints = get_type_hints(self.read)
        names = [name for name in hints if name not in ("source", "participants", "return")]
        return {name: tuple(_literals(hints[name])) for name in names}


def _literals(hint: object) -> Iterator[str]:
    """The strings of a ``Literal``, also within ``Literal | None``."""
    for part in get_args(hint):
        if isinstance(part, str):
            yield part
        else:
            yield from _literals(part)


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
    return Importer(name, importlib.import_module(f"pipelines.datasets.{name}").read_release)
