"""Outlines of the FLAIR abnormality on published slices, cross-validated by patient: writes docs/imaging.md.

``--dry`` writes nothing. Real input is read from GLIAFLOW_REAL_DATA. A training that was stopped goes on, and one that
is up to date is not repeated; else 80 patients take two hours of one processor core.
"""

from __future__ import annotations

import argparse
import io
import sys

import numpy as np
import numpy.typing as npt
import pandas as pd
import SimpleITK as sitk
from matplotlib.figure import Figure

from pipelines.datasets.lgg_segmentation import import_lgg_segmentation
from pipelines.flows.train import train_abnormality
from pipelines.parameters import read_section, read_value
from pipelines.training.slices import SliceTrainParameters
from services.segmentation.abnormality import mask_key, read_mask, segment_abnormality
from services.segmentation.contracts import DEFAULT_ABNORMALITY_MODEL, AbnormalityParameters, AbnormalityRequest
from services.shared.cohort import CaseKeys, Sequence, participants_key
from services.shared.contracts import CaseRef
from services.shared.settings import quiet_libraries, settings
from services.shared.storage import Storage, open_storage
from services.shared.volume import read_volume
from tests.benchmarks.imaging import PAGE
from tests.benchmarks.page import write_section

COHORT = "lgg"
SOURCE, CLINIC = "kaggle_lgg_mri", "tcga_glioma_clinical"
PUBLISHED = "U-Net of Buda et al., Comput Biol Med 2019 (110 patients)", 0.82, 0.85
SHOWN = (0.05, 0.25, 0.5, 0.75, 0.95)
RESAMPLED = 2000

Pixels = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def limits(values: pd.Series, seed: int) -> str:
    """Return the mean with its 95 % limits over resampled patients."""
    rng = np.random.default_rng(seed)
    means = values.to_numpy()[rng.integers(0, len(values), (RESAMPLED, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{values.mean():.3f} ({low:.3f}–{high:.3f})"


def rows(table: pd.DataFrame, seed: int) -> list[str]:
    """Return the table of figures, the published ones beside ours."""
    name, mean, median = PUBLISHED
    distance = table["hd95_mm"]
    ours = f"{limits(table['dice'], seed)} | {table['dice'].median():.3f}"
    return [
        "| network | patients | Dice, mean | Dice, median | HD95 in pixels, median / mean |",
        "| --- | ---: | --- | --- | --- |",
        f"| gliaflow, out of fold | {len(table)} | {ours} | {distance.median():.1f} / {distance.mean():.1f} |",
        f"| {name} | 110 | {mean} | {median} | – |",
    ]


def draw(storage: Storage, table: pd.DataFrame) -> bytes:
    """Return a picture of patients from a low to a high Dice: expert's outline green, network's red."""
    order = table.sort_values(["dice", "case_id"], ignore_index=True)
    chosen = order.iloc[[round(share * (len(order) - 1)) for share in SHOWN]]
    figure = Figure(figsize=(2.4 * len(chosen), 2.8), layout="constrained")
    for axes, row in zip(figure.subplots(1, len(chosen)), chosen.itertuples(), strict=True):
        pixels, expert, ours = _largest_slice(storage, CaseRef(cohort=COHORT, id=str(row.case_id)), int(row.fold))
        axes.imshow(pixels, cmap="gray", vmax=float(np.percentile(pixels, 99.5)))
        for mask, colour in ((expert, "#35c46b"), (ours, "#ff4d4d")):
            if mask.any():
                axes.contour(mask, levels=[0.5], colors=colour, linewidths=1.2)
        axes.set_title(f"Dice {row.dice:.2f}", fontsize=10)
        axes.axis("off")
    stream = io.BytesIO()
    figure.savefig(stream, dpi=110, metadata={"Software": None})
    return stream.getvalue()


def _largest_slice(storage: Storage, case: CaseRef, fold: int) -> tuple[Pixels, Mask, Mask]:
    """Return FLAIR, the expert's mask and that of the patient's judge, in the slice where the expert's is largest."""
    keys = CaseKeys(case)
    judge = AbnormalityParameters(model=f"{DEFAULT_ABNORMALITY_MODEL}/folds/{fold}")
    segment_abnormality(storage, AbnormalityRequest(case=case, parameters=judge))
    flair = read_volume(storage, keys.raw_image(Sequence.FLAIR))
    expert = read_mask(storage, keys, flair)
    if expert is None:
        raise AssertionError("a judged case has a mask")
    ours = sitk.GetArrayFromImage(read_volume(storage, mask_key(keys))) > 0
    z = int(expert.sum(axis=(1, 2)).argmax())
    return sitk.GetArrayFromImage(flair)[z].astype(np.float32), expert[z], ours[z]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="abnormality", description="Outlines of the FLAIR abnormality")
    parser.add_argument("--dry", action="store_true", help="write no page")
    arguments = parser.parse_args()
    quiet_libraries()
    storage, data = open_storage(), settings().real_data
    if not (data / SOURCE).is_dir():
        sys.exit(f"skipped: no {SOURCE} in the folder that GLIAFLOW_REAL_DATA names")
    if not storage.exists(participants_key(COHORT)):
        import_lgg_segmentation(storage, data / SOURCE, COHORT, participants=data / CLINIC)
    seed = read_value(None, "seed", default=0)
    parameters = read_section(None, "train_abnormality", SliceTrainParameters)
    result = train_abnormality(
        COHORT, parameters, seed, progress=lambda now, total, what: print(f"{now}/{total} {what}", flush=True)
    )
    with storage.local(f"{result.model}/cross_validation.csv") as path:
        table = pd.read_csv(path, dtype={"case_id": str})
    conditions = (
        f"SegResNet of width {parameters.width} on slices of {parameters.side} pixels, {parameters.epochs} epochs, "
        f"{parameters.folds} folds by patient, seed {seed}; {int(table['slices'].sum())} slices. "
        f"{int((table['dice'] < 0.5).sum())} patients have a Dice below 0.5."
    )
    lines = [
        conditions,
        "",
        *rows(table, seed),
    ]
    print("\n".join(lines))
    picture = f"{result.model}/outlines.png"  # of patients: it stays with the data
    storage.write_bytes(picture, draw(storage, table))
    print(f"outlines: {storage.url(picture)}")
    if not arguments.dry:
        write_section(PAGE, "abnormality", lines)


if __name__ == "__main__":
    main()
