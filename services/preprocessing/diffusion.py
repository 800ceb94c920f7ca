"""Diffusion maps of a prepared case: from the 4D series to FA, MD, AD and RD on the atlas grid.

The mean unweighted volume, whose contrast is that of T2, is laid on T2 by a rigid transform; the tensor is fitted on
the grid of the series; each map is interpolated once. All maps come of one fit, so they lie on each other.
"""

from __future__ import annotations

import json

import numpy as np
import SimpleITK as sitk

from services.preprocessing.contracts import DiffusionQuality, DiffusionResult
from services.preprocessing.orientation import smooth_for
from services.preprocessing.reading import read_sequence
from services.preprocessing.registration import compose, dilate, mask_points, mean_displacement_mm, register_rigid
from services.preprocessing.tensor import MAPS, Gradients, fit_tensor, read_gradients, tensor_maps
from services.shared.cohort import CaseKeys, Sequence
from services.shared.contracts import CaseRef
from services.shared.errors import GliaflowError, InvalidVolume, NotFound
from services.shared.manifest import Manifest, run_step
from services.shared.storage import Storage
from services.shared.volume import itk_threads, read_series, read_volume, write_volume

STEP = "diffusion"
STEP_VERSION = "1"
MARGIN_VOXELS = 2.0
"""How far beyond the brain the tensor is fitted, so that interpolation at its edge finds values."""


def prepare_diffusion(storage: Storage, case: CaseRef, *, seed: int = 0) -> DiffusionResult:
    """Make the diffusion maps of a prepared case, or find that they are made.

    Parameters
    ----------
    seed
        Seed of the registration's samples.

    Raises
    ------
    NotFound
        Where the case has no series with its table, or is not prepared.
    InvalidTable, InvalidVolume, UnreadableFile
        Where series or table cannot be worked with. No map stays behind; the other volumes are as they were.
    """
    keys = CaseKeys(case)
    try:
        manifest, cached = _run(storage, keys, seed)
    except GliaflowError as error:
        storage.remove(f"{keys.preprocessed}/dwi")
        raise error.with_context(case=str(case), step=STEP) from None
    return DiffusionResult(
        case=case,
        cached=cached,
        maps={name: keys.diffusion_map(name) for name in MAPS},
        transform=_transform_key(keys),
        quality=DiffusionQuality.model_validate_json(storage.read_text(_quality_key(keys))),
        seconds=manifest.seconds,
    )


def _transform_key(keys: CaseKeys) -> str:
    return f"{keys.preprocessed}/dwi/{keys.subject}_from-dwi_to-{keys.space}_xfm.tfm"


def _quality_key(keys: CaseKeys) -> str:
    return f"{keys.preprocessed}/dwi/qc.json"


def _run(storage: Storage, keys: CaseKeys, seed: int) -> tuple[Manifest, bool]:
    series = [keys.raw_dwi(extension) for extension in ("nii.gz", "bval", "bvec")]
    prepared = [keys.brain_mask, keys.transform(Sequence.T2, keys.space)]
    for key in (*series, *prepared):
        if not storage.exists(key):
            raise NotFound(
                "the case has no diffusion series with its table" if key in series else "the case is not prepared",
                field=key,
                remedy="import the series, bval and bvec" if key in series else "run 'gliaflow prepare' first",
            )
    return run_step(
        storage,
        keys.manifest(STEP),
        step=STEP,
        step_version=STEP_VERSION,
        case=str(keys.case),
        inputs=[*series, *prepared, keys.raw_image(Sequence.T2)],
        parameters={"seed": seed},
        packages=["SimpleITK", "numpy", "scipy"],
        compute=lambda: _compute(storage, keys, seed),
    )


def _compute(storage: Storage, keys: CaseKeys, seed: int) -> list[str]:
    volumes = read_series(storage, keys.raw_dwi("nii.gz"))
    gradients = read_gradients(
        storage.read_text(keys.raw_dwi("bval")), storage.read_text(keys.raw_dwi("bvec")), volumes=len(volumes)
    )
    brain = read_volume(storage, keys.brain_mask, pixel_type=sitk.sitkUInt8)
    t2 = read_sequence(storage, keys, Sequence.T2)
    with storage.local(keys.transform(Sequence.T2, keys.space)) as path:
        atlas_to_t2 = sitk.ReadTransform(str(path))
    with itk_threads(1):
        return _write(storage, keys, volumes, gradients, brain, t2, atlas_to_t2, seed)


def _write(
    storage: Storage,
    keys: CaseKeys,
    volumes: list[sitk.Image],
    gradients: Gradients,
    brain: sitk.Image,
    t2: sitk.Image,
    atlas_to_t2: sitk.Transform,
    seed: int,
) -> list[str]:
    used = gradients.fitted()
    baseline = mean_baseline(volumes, gradients)
    nearest = sitk.sitkNearestNeighbor
    around = sitk.Resample(dilate(brain, 6.0), t2, atlas_to_t2.GetInverse(), nearest, 0)
    t2_to_series = register_rigid(t2, baseline, mask=around, seed=seed, finest_mm=min(baseline.GetSpacing()))
    atlas_to_series = compose(t2_to_series, atlas_to_t2)
    margin = MARGIN_VOXELS * max(baseline.GetSpacing())
    inside = sitk.Resample(dilate(brain, margin), baseline, atlas_to_series.GetInverse(), nearest, 0)
    within = sitk.GetArrayFromImage(inside) > 0
    if not within.any():
        raise InvalidVolume(
            "the diffusion series does not show the brain",
            field=keys.raw_dwi("nii.gz"),
            expected="a series of the same head",
            got="no voxel of the brain in its field of view",
            remedy="look at the series' geometry, or leave the series out",
        )
    signal = np.stack([sitk.GetArrayViewFromImage(volume)[within] for volume in volumes], axis=1)
    maps = tensor_maps(fit_tensor(signal, gradients))
    seen = sitk.Resample(sitk.Cast(baseline * 0 + 1, sitk.sitkUInt8), brain, atlas_to_series, nearest, 0)
    written = []
    shown = sitk.GetArrayViewFromImage(brain) > 0
    for name in MAPS:
        values = np.zeros(within.shape, dtype=np.float32)
        values[within] = maps[name]
        image = sitk.GetImageFromArray(values)
        image.CopyInformation(baseline)
        laid = sitk.Resample(smooth_for(image, brain.GetSpacing()), brain, atlas_to_series, sitk.sitkLinear, 0.0)
        kept = sitk.GetImageFromArray(np.where(shown, sitk.GetArrayViewFromImage(laid), np.float32(0)))
        kept.CopyInformation(brain)
        write_volume(storage, keys.diffusion_map(name), kept)
        written.append(keys.diffusion_map(name))
    with storage.publish(_transform_key(keys)) as path:
        sitk.WriteTransform(atlas_to_series, str(path))
    quality = DiffusionQuality(
        spacing_mm=tuple(round(s, 4) for s in baseline.GetSpacing()),
        volumes=len(volumes),
        volumes_fitted=int(used.sum()),
        largest_b_s_mm2=float(gradients.b_values[used].max()),
        shift_mm=mean_displacement_mm(t2_to_series, sitk.Transform(3, sitk.sitkIdentity), mask_points(around)),
        fraction_seen=float((sitk.GetArrayViewFromImage(seen)[shown] > 0).mean()),
        median_md_um2_ms=float(np.median(maps["MD"])),
    )
    storage.write_text(_quality_key(keys), json.dumps(quality.model_dump(mode="json"), indent=2) + "\n")
    return [*written, _transform_key(keys), _quality_key(keys)]


def mean_baseline(volumes: list[sitk.Image], gradients: Gradients) -> sitk.Image:
    """Return the mean of the volumes with the least diffusion weighting."""
    chosen = gradients.unweighted if gradients.unweighted.any() else gradients.b_values == gradients.b_values.min()
    mean = np.mean([sitk.GetArrayViewFromImage(volumes[i]) for i in np.flatnonzero(chosen)], axis=0, dtype=np.float64)
    image = sitk.GetImageFromArray(mean.astype(np.float32))
    image.CopyInformation(volumes[0])
    return image
