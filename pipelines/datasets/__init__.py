"""Importers: a release as its publisher lays it out → our cohort."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from pipelines.datasets.release import Release
from services.shared.errors import GliaflowError, NotFound
from services.shared.storage import Storage

if TYPE_CHECKING:
    from pipelines.datasets.nifti import ImportedCase

IMPORTERS: dict[str, str] = {
    "bakas": "Published radiomics of 102 GBM and 65 LGG of TCGA: folder with TCGA_GBM_….csv and TCGA_LGG_….csv",
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
