"""What can be fetched, by name: whose it is, under which terms, and what has to be fetched by hand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from pipelines.fetch import DESCRIPTIONS
from pipelines.fetch.connection import Connection
from pipelines.fetch.download import Remote
from pipelines.fetch.gdc_clinical import plan_clinical
from pipelines.fetch.gdc_expression import plan_expression
from pipelines.fetch.imagenet import plan_weights
from pipelines.fetch.plan import Plan, RemoteFile, Selection
from pipelines.fetch.tcia import plan_collection
from services.shared.errors import InvalidValue

Publisher = Literal["TCIA", "GDC", "torchvision"]


class Planner(Protocol):
    """Lists what a release holds for some patients."""

    def __call__(self, connection: Connection, base_url: str, selection: Selection) -> Plan:
        """Return the plan."""


@dataclass(frozen=True)
class OpenRelease:
    """A release by name.

    Parameters
    ----------
    what
        One line for the list.
    publisher
        Whose interface is asked.
    licence, citation
        Terms, and whom to cite.
    planner
        Lists its files.
    by_hand
        What this command cannot fetch, and how to get it; empty where it fetches all.
    """

    what: str
    publisher: Publisher
    licence: str
    citation: str
    planner: Planner
    by_hand: str = ""


def plan_files(connection: Connection, base_url: str, selection: Selection, *, files: dict[str, Remote]) -> Plan:
    """Plan files at fixed addresses; they hold all patients at once."""
    del connection, base_url
    if selection.only or selection.limit is not None:
        raise InvalidValue(
            "this release is one table of all patients",
            step="fetch",
            field="--only, --limit",
            remedy="fetch it without, and choose patients at import",
        )
    return Plan(units=tuple(RemoteFile(path, remote) for path, remote in sorted(files.items())), asked="")


_TCGA = "NIH Genomic Data Sharing Policy, open tier: https://gdc.cancer.gov/access-data/data-access-policies"
_TCGA_CITATION = (
    "The Cancer Genome Atlas Research Network, https://www.cancer.gov/tcga; Grossman RL et al., "
    "N Engl J Med 2016;375:1109-1112"
)
_GLIOMA = ("TCGA-GBM", "TCGA-LGG")
_FACES = (
    "Heads that are not defaced may have moved to controlled access at https://general.datacommons.cancer.gov; "
    "TCIA then lists no series."
)

RELEASES: dict[str, OpenRelease] = {
    "tcga-gbm-mri": OpenRelease(
        DESCRIPTIONS["tcga-gbm-mri"],
        "TCIA",
        "CC BY 3.0",
        "Scarpace L et al., TCGA-GBM, TCIA 2016, https://doi.org/10.7937/K9/TCIA.2016.RNYFUYE9",
        partial(plan_collection, collection="TCGA-GBM"),
        by_hand=_FACES,
    ),
    "tcga-lgg-mri": OpenRelease(
        DESCRIPTIONS["tcga-lgg-mri"],
        "TCIA",
        "CC BY 3.0",
        "Pedano N et al., TCGA-LGG, TCIA 2016, https://doi.org/10.7937/K9/TCIA.2016.L4LTD3TK",
        partial(plan_collection, collection="TCGA-LGG"),
        by_hand=_FACES,
    ),
    "upenn-gbm": OpenRelease(
        DESCRIPTIONS["upenn-gbm"],
        "TCIA",
        "CC BY 4.0",
        "Bakas S et al., UPENN-GBM, TCIA 2021, https://doi.org/10.7937/TCIA.709X-DN49; Sci Data 2022;9:453",
        partial(plan_collection, collection="UPENN-GBM"),
        by_hand="NIfTI images, segmentations, radiomics and clinical tables: with IBM Aspera Connect from "
        "https://www.cancerimagingarchive.net/collection/upenn-gbm/",
    ),
    "ucsf-pdgm": OpenRelease(
        DESCRIPTIONS["ucsf-pdgm"],
        "TCIA",
        "CC BY 4.0",
        "Calabrese E et al., UCSF-PDGM, TCIA 2022, https://doi.org/10.7937/tcia.bdgf-8v37; "
        "Radiol Artif Intell 2022;4:e220058",
        partial(
            plan_files,
            files={
                "UCSF-PDGM-metadata_v5.csv": Remote(
                    "https://www.cancerimagingarchive.net/wp-content/uploads/UCSF-PDGM-metadata_v5.csv"
                )
            },
        ),
        by_hand="the images are NIfTI only: with IBM Aspera Connect from "
        "https://www.cancerimagingarchive.net/collection/ucsf-pdgm/",
    ),
    "tcga-glioma-expression": OpenRelease(
        DESCRIPTIONS["tcga-glioma-expression"],
        "GDC",
        _TCGA,
        _TCGA_CITATION,
        partial(plan_expression, projects=_GLIOMA),
    ),
    "tcga-glioma-clinical": OpenRelease(
        DESCRIPTIONS["tcga-glioma-clinical"],
        "GDC",
        _TCGA,
        _TCGA_CITATION,
        partial(plan_clinical, projects=_GLIOMA),
    ),
    "imagenet-resnets": OpenRelease(
        DESCRIPTIONS["imagenet-resnets"],
        "torchvision",
        "BSD 3-Clause (torchvision); trained on ImageNet, whose images are for non-commercial research",
        "He K et al., CVPR 2016, https://doi.org/10.1109/CVPR.2016.90; torchvision, https://github.com/pytorch/vision",
        plan_weights,
        by_hand="copy the .npz files below GLIAFLOW_STORAGE_ROOT and name them in the parameter file: "
        "extract_deep: {weights: …/resnet34.npz}, train_imaging: {start: …/resnet18.npz}",
    ),
}
"""Open releases by name."""
