"""Importers: a release as its publisher lays it out → our cohort."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol, cast

from pipelines.datasets.release import Release
from services.shared.errors import NotFound

IMPORTERS: dict[str, str] = {
    "bakas": "Published radiomics of 102 GBM and 65 LGG of TCGA: folder with TCGA_GBM_*.csv and TCGA_LGG_*.csv",
}
"""Releases of tables by name, with what to point the importer at; the module has the same name."""


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


def importer(name: str) -> Importer:
    """Return an importer by name.

    Raises
    ------
    NotFound
        Listing the importers that there are.
    """
    if name not in IMPORTERS:
        raise NotFound(
            "there is no importer of this name", field="name", got=name, expected=", ".join(("nifti", *IMPORTERS))
        )
    return cast(Importer, importlib.import_module(f"pipelines.datasets.{name}"))
