"""Judge a slice network on patients that it never saw, and sum a cross-validation up."""

from __future__ import annotations

import json
from collections.abc import Sequence as ListOf

import pandas as pd

from pipelines.training.processes import is_first_process, wait_for_all
from pipelines.training.slice_data import slice_inputs
from services.segmentation.abnormality import hausdorff_95, outline, read_mask, read_sequences
from services.segmentation.contracts import AbnormalityParameters
from services.segmentation.regions import dice
from services.segmentation.slice_network import (
    SliceNetworkSpec,
    build_slice_network,
    slice_probabilities,
    stack_slices,
)
from services.shared.cohort import CaseKeys, Sequence
from services.shared.contracts import CaseRef
from services.shared.device import choose_device
from services.shared.manifest import run_step
from services.shared.storage import Storage
from services.shared.trained_network import card_key, load_network, weights_key

_VERSION = "1"


def judge_network(storage: Storage, model: str, cases: ListOf[CaseRef]) -> pd.DataFrame:
    """Return Dice and HD95 of each case, outlined as the service would; they are kept beside the network.

    Parameters
    ----------
    cases
        Cases with masks that the network was not trained on.

    Returns
    -------
    pandas.DataFrame
        One row a case: case_id, slices, dice, hd95_mm (empty where the network found nothing).
    """
    key = f"{model}/judged.csv"
    as_served = AbnormalityParameters()

    def compute() -> list[str]:
        if is_first_process():
            rows = [_judge(storage, model, case, as_served) for case in cases]
            storage.write_text(key, _csv(pd.DataFrame(rows)))
        wait_for_all()
        return [key]

    run_step(
        storage,
        f"{model}/judged.json",
        step="judge FLAIR abnormality",
        step_version=_VERSION,
        case=None,
        inputs=[card_key(model), weights_key(model), *(key for case in cases for key in slice_inputs(storage, case))],
        parameters=as_served.model_dump(mode="json", include={"threshold", "min_component_share"}),
        packages=["monai", "numpy", "scipy", "torch"],
        compute=compute,
        device=str(choose_device()),
    )
    with storage.local(key) as path:
        return pd.read_csv(path, dtype={"case_id": str})


def write_figures(storage: Storage, model: str, tables: ListOf[pd.DataFrame]) -> dict[str, float]:
    """Write each patient's figures (``cross_validation.csv``) and their summary (``metrics.json``), and return this.

    Parameters
    ----------
    tables
        From :func:`judge_network`, one a fold; none where there was no cross-validation.
    """
    if not tables:  # figures of an earlier cross-validation are of other networks
        storage.remove(f"{model}/cross_validation.csv")
        storage.remove(f"{model}/metrics.json")
        return {}
    table = pd.concat([found.assign(fold=k) for k, found in enumerate(tables, start=1)], ignore_index=True)
    figures = {
        "patients": len(table),
        "slices": int(table["slices"].sum()),
        "dice_mean": float(table["dice"].mean()),
        "dice_median": float(table["dice"].median()),
        "hd95_mm_mean": float(table["hd95_mm"].mean()),
        "hd95_mm_median": float(table["hd95_mm"].median()),
        "cases_without_overlap": int((table["dice"] == 0).sum()),
    }
    if is_first_process():
        storage.write_text(f"{model}/cross_validation.csv", _csv(table))
        storage.write_text(f"{model}/metrics.json", json.dumps(figures, indent=2) + "\n")
    wait_for_all()
    return figures


def _judge(storage: Storage, model: str, case: CaseRef, as_served: AbnormalityParameters) -> dict[str, object]:
    card, network = load_network(storage, model, SliceNetworkSpec, build_slice_network)
    keys = CaseKeys(case)
    volumes, flair = read_sequences(storage, keys)
    device = choose_device()
    found = slice_probabilities(
        network.to(device), stack_slices(volumes, card.spec), volumes[Sequence.FLAIR].shape[1:], device=device
    )
    mask, reference = outline(found, as_served), read_mask(storage, keys, flair)
    if reference is None:
        raise AssertionError("a case without a mask was set aside for judging")
    return {
        "case_id": case.id,
        "slices": len(mask),
        "dice": dice(mask, reference),
        "hd95_mm": hausdorff_95(mask, reference, flair.GetSpacing()),
    }


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, float_format="%.10g", lineterminator="\n")
