"""The order of preparation: what is done to a case, from imported volumes to volumes on the atlas grid.

Orientation → N4 → T1c to the atlas → T1, T2, FLAIR to T1c → brain → one interpolation through the composed
transforms → intensity scale → quality numbers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from services.preprocessing.atlas import Atlas, brain_from_nonzero, load_atlas
from services.preprocessing.bias_field import Corrected, correct_bias, field_grid_mm
from services.preprocessing.brain_extraction import (
    expected_brain_centres,
    find_head,
    is_skull_stripped,
    refine_brain,
    volume_ml,
)
from services.preprocessing.contracts import PrepareParameters, PrepareResult, Quality, SequenceQuality
from services.preprocessing.intensity import (
    Normalisation,
    Normalised,
    percentile_0_255,
    white_stripe,
    white_stripe_voxels,
    z_score,
)
from services.preprocessing.orientation import anisotropy, coarsen, resampled_grid, smooth_for
from services.preprocessing.quality import agreement, dice, find_flags, signal_to_noise
from services.preprocessing.reading import read_expert, read_sequence
from services.preprocessing.registration import (
    compose,
    dilate,
    mask_points,
    mean_displacement_mm,
    nearest_rigid,
    register_rigid,
    register_to_template,
)
from services.shared.cohort import SEQUENCES, CaseKeys, Sequence, require_sequences
from services.shared.contracts import CaseRef
from services.shared.errors import GliaflowError, InvalidMask, InvalidVolume
from services.shared.manifest import Manifest, run_step
from services.shared.settings import settings
from services.shared.storage import Storage
from services.shared.volume import itk_threads, read_volume, write_volume

STEP = "prepare"
STEP_VERSION = "2"
IDENTITY = sitk.Transform(3, sitk.sitkIdentity)


@dataclass(frozen=True)
class Alignment:
    """Transforms of one case, each from points of the first-named space to points of the second."""

    atlas_to_t1c: sitk.Transform
    atlas_to_t1c_affine: sitk.Transform
    t1c_to_sequence: dict[Sequence, sitk.Transform]

    def atlas_to(self, sequence: Sequence) -> sitk.Transform:
        """Return the composed transform from the atlas to a sequence."""
        return compose(self.t1c_to_sequence[sequence], self.atlas_to_t1c)


def prepare_case(storage: Storage, case: CaseRef, parameters: PrepareParameters | None = None) -> PrepareResult:
    """Prepare one case, or find that it is prepared.

    Parameters
    ----------
    storage
        Holds ``raw/<cohort>/sub-<id>/anat``; the results go to ``derivatives/preprocessed/<cohort>/sub-<id>``.

    Raises
    ------
    GliaflowError
        MissingSequence, UnreadableFile, InvalidVolume, InvalidMask, SpaceMismatch. The case is then quarantined:
        qc.json holds the problem, and no volume stays behind.
    """
    parameters = parameters or PrepareParameters()
    keys = CaseKeys(case)
    try:
        manifest, cached = _run(storage, keys, parameters)
    except GliaflowError as error:
        error.with_context(case=str(case), step=STEP)
        storage.remove(keys.preprocessed)
        quarantined = {"status": "quarantined", "problem": error.to_problem()}
        storage.write_text(keys.quality, json.dumps(quarantined, indent=2) + "\n")
        raise
    except BaseException:
        storage.remove(keys.preprocessed)
        raise
    expert = keys.preprocessed_segmentation
    return PrepareResult(
        case=case,
        cached=cached,
        images={sequence: keys.preprocessed_image(sequence) for sequence in SEQUENCES},
        brain_mask=keys.brain_mask,
        segmentation=expert if expert in manifest.outputs else None,
        transforms={sequence: keys.transform(sequence, keys.space) for sequence in SEQUENCES},
        quality=Quality.model_validate_json(storage.read_text(keys.quality)),
        seconds=manifest.seconds,
    )


def invert_to_native(
    storage: Storage, case: CaseRef, sequence: Sequence, image: sitk.Image, *, labels: bool = False
) -> sitk.Image:
    """Return an image of the atlas space on the grid of an imported sequence.

    Parameters
    ----------
    image
        On any grid in the atlas space, such as a segmentation of the prepared volumes.
    labels
        The image holds labels, whose values must not be mixed.

    Raises
    ------
    NotFound
        Where the case is not prepared.
    """
    keys = CaseKeys(case)
    with storage.local(keys.transform(sequence, keys.space)) as path:
        atlas_to_sequence = sitk.ReadTransform(str(path))
    native = read_volume(storage, keys.raw_image(sequence))
    inverse = atlas_to_sequence.GetInverse()
    if labels:
        return carry_labels(image, native, inverse)
    return sitk.Resample(image, native, inverse, sitk.sitkLinear, 0.0)


def carry_labels(labels: sitk.Image, grid: sitk.Image, transform: sitk.Transform) -> sitk.Image:
    """Return a label volume on another grid: each voxel takes the label with the largest interpolated share.

    Where the new grid is coarser, each label is averaged over the larger voxel first, so that a small region is not
    missed between samples.
    """
    array = sitk.GetArrayFromImage(labels)
    best = np.zeros(grid.GetSize()[::-1], np.float32)
    result = np.zeros(best.shape, np.uint8)
    for value in [int(v) for v in np.unique(array)]:
        one = sitk.GetImageFromArray((array == value).astype(np.float32))
        one.CopyInformation(labels)
        outside = 1.0 if value == 0 else 0.0
        smooth = smooth_for(one, grid.GetSpacing())
        share = sitk.GetArrayFromImage(sitk.Resample(smooth, grid, transform, sitk.sitkLinear, outside))
        result[share > best] = value
        best = np.maximum(best, share)
    carried = sitk.GetImageFromArray(result)
    carried.CopyInformation(grid)
    return carried


def _run(storage: Storage, keys: CaseKeys, parameters: PrepareParameters) -> tuple[Manifest, bool]:
    atlas = load_atlas(settings().atlas, parameters.voxel_mm)
    require_sequences(storage, keys, step=STEP, prepared=False)
    inputs = [keys.raw_image(sequence) for sequence in SEQUENCES]
    if storage.exists(keys.raw_segmentation):
        inputs.append(keys.raw_segmentation)
    return run_step(
        storage,
        keys.manifest(STEP),
        step=STEP,
        step_version=STEP_VERSION,
        case=str(keys.case),
        inputs=inputs,
        parameters={
            **parameters.model_dump(mode="json", exclude={"diffusion"}),
            "atlas": f"{atlas.name} {atlas.digest}",
        },
        packages=["SimpleITK", "nilearn", "numpy", "scipy"],
        compute=lambda: _compute(storage, keys, parameters, atlas),
    )


def _compute(storage: Storage, keys: CaseKeys, parameters: PrepareParameters, atlas: Atlas) -> list[str]:
    storage.remove(keys.preprocessed)
    with itk_threads(1):
        try:
            return _prepare(storage, keys, parameters, atlas)
        except RuntimeError as error:
            raise InvalidVolume(
                "the volumes cannot be brought together",
                expected="four sequences of one head",
                got=str(error).strip().splitlines()[-1].strip()[:200],
                remedy="look at the case's volumes; leave the case out if they do not show the same head",
            ) from error


def _prepare(storage: Storage, keys: CaseKeys, parameters: PrepareParameters, atlas: Atlas) -> list[str]:
    raw = {sequence: read_sequence(storage, keys, sequence) for sequence in SEQUENCES}
    expert = read_expert(storage, keys) if storage.exists(keys.raw_segmentation) else None
    stripped = is_skull_stripped(raw[Sequence.T1C])
    corrected = {s: _correct(image, parameters, stripped=stripped) for s, image in raw.items()}
    images = {sequence: c.image for sequence, c in corrected.items()}
    alignment = align(images, atlas, parameters, stripped=stripped)
    fitted = _fitted_brain(images, alignment, atlas, parameters, stripped=stripped)
    brain = _carry_mask(fitted, atlas.grid, compose(alignment.atlas_to_t1c_affine.GetInverse(), alignment.atlas_to_t1c))
    inside = sitk.GetArrayFromImage(brain) > 0
    if not inside.any():
        raise InvalidMask("no brain was found", expected="a brain", got="an empty mask", remedy="check the T1c volume")
    arrays = {s: _resample(images[s], atlas.grid, alignment.atlas_to(s), parameters) for s in SEQUENCES}
    normalised = _normalise(arrays, inside, parameters.normalisation)
    sequences = {
        s: _sequence_quality(s, raw[s], corrected[s], images, arrays, inside, alignment, atlas, normalised[s])
        for s in SEQUENCES
    }
    quality = _quality(keys, parameters, atlas, alignment, fitted, brain, arrays, inside, sequences, stripped=stripped)
    written: list[str] = []
    for sequence in SEQUENCES:
        _write(storage, keys.preprocessed_image(sequence), normalised[sequence].array, atlas.grid, written)
        transforms = {keys.space: alignment.atlas_to(sequence)}
        if sequence != Sequence.T1C:
            transforms["T1c"] = alignment.t1c_to_sequence[sequence]
        for target, transform in transforms.items():
            with storage.publish(keys.transform(sequence, target)) as path:
                sitk.WriteTransform(compose(transform, IDENTITY), str(path))
            written.append(keys.transform(sequence, target))
    _write(storage, keys.brain_mask, inside.astype(np.uint8), atlas.grid, written)
    if expert is not None:
        carried = carry_labels(expert, atlas.grid, alignment.atlas_to_t1c)
        _write(storage, keys.preprocessed_segmentation, sitk.GetArrayFromImage(carried), atlas.grid, written)
    storage.write_text(keys.quality, quality.model_dump_json(indent=2) + "\n")
    return [*written, keys.quality]


def _correct(image: sitk.Image, parameters: PrepareParameters, *, stripped: bool) -> Corrected:
    if not parameters.bias_correction:
        return Corrected(image, 1.0)
    mask = brain_from_nonzero(image) if stripped else find_head(image)
    return correct_bias(image, mask, grid_mm=field_grid_mm(parameters.voxel_mm))


def align(
    images: dict[Sequence, sitk.Image], atlas: Atlas, parameters: PrepareParameters, *, stripped: bool
) -> Alignment:
    """Return the transforms from the atlas to T1c and from T1c to every other sequence."""
    t1c = images[Sequence.T1C]
    points = mask_points(atlas.mask)
    if stripped:
        starts = [tuple(mask_points(brain_from_nonzero(t1c)).mean(axis=0))]
    else:
        starts = expected_brain_centres(find_head(t1c), float(np.ptp(points[:, 2])))
    template, where = (atlas.brain, dilate(atlas.mask, 6.0)) if stripped else (atlas.head, atlas.head_region)
    centre = points.mean(axis=0)
    fitted = register_to_template(t1c, template, where, centre=centre, starts=starts, seed=parameters.seed)
    chosen = nearest_rigid(fitted, centre=centre) if parameters.alignment == "rigid" else fitted
    # The skull moves with the brain and has sharp edges; what lies farther down (jaw, neck) may not.
    working = coarsen(t1c, 3.0)
    region = _carry_mask(dilate(atlas.mask, 12.0), working, fitted.GetInverse())
    # Releases without skull come co-registered: only a clear gain is a reason to move them.
    least_gain = 0.02 if stripped else 0.0
    moves: dict[Sequence, sitk.Transform] = {Sequence.T1C: sitk.AffineTransform(3)}
    for sequence in SEQUENCES:
        if sequence != Sequence.T1C:
            moves[sequence] = register_rigid(
                t1c,
                images[sequence],
                mask=region,
                seed=parameters.seed,
                finest_mm=min(parameters.voxel_mm, 3.0),
                least_gain=least_gain,
            )
    return Alignment(chosen, fitted, {s: moves[s] for s in SEQUENCES})


def _fitted_brain(
    images: dict[Sequence, sitk.Image],
    alignment: Alignment,
    atlas: Atlas,
    parameters: PrepareParameters,
    *,
    stripped: bool,
) -> sitk.Image:
    """Return the brain mask on a working grid in the atlas space, laid by the affine transform."""
    spacing = max(2.0, parameters.voxel_mm) if not stripped else parameters.voxel_mm
    working = resampled_grid(atlas.brain, (spacing, spacing, spacing))
    to_t1c = alignment.atlas_to_t1c_affine
    if stripped:
        return _carry_mask(brain_from_nonzero(images[Sequence.T1C]), working, to_t1c)
    prior = _carry_mask(atlas.mask, working, IDENTITY)
    volumes, seen = [], sitk.Cast(working, sitk.sitkFloat32) + 1.0
    for sequence in SEQUENCES:
        transform = compose(alignment.t1c_to_sequence[sequence], to_t1c)
        image = images[sequence]
        volumes.append(sitk.Resample(smooth_for(image, working.GetSpacing()), working, transform, sitk.sitkLinear, 0.0))
        seen = sitk.Minimum(seen, _field_of_view(image, working, transform))
    return refine_brain(prior, volumes, seen=seen > 0.5)


def _field_of_view(image: sitk.Image, grid: sitk.Image, transform: sitk.Transform) -> sitk.Image:
    ones = sitk.Image(image.GetSize(), sitk.sitkFloat32)
    ones.CopyInformation(image)
    return sitk.Resample(ones + 1.0, grid, transform, sitk.sitkNearestNeighbor, 0.0)


def _carry_mask(mask: sitk.Image, grid: sitk.Image, transform: sitk.Transform) -> sitk.Image:
    share = sitk.Resample(
        smooth_for(sitk.Cast(mask, sitk.sitkFloat32), grid.GetSpacing()), grid, transform, sitk.sitkLinear, 0.0
    )
    return sitk.Cast(share >= 0.5, sitk.sitkUInt8)


def _resample(
    image: sitk.Image, grid: sitk.Image, transform: sitk.Transform, parameters: PrepareParameters
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    method = sitk.sitkBSpline if parameters.interpolation == "bspline" else sitk.sitkLinear
    return sitk.GetArrayFromImage(  # type: ignore[no-any-return]
        sitk.Resample(smooth_for(image, grid.GetSpacing()), grid, transform, method, 0.0, sitk.sitkFloat32)
    )


def _normalise(
    arrays: dict[Sequence, np.ndarray[tuple[int, ...], np.dtype[np.float32]]],
    inside: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    method: Normalisation,
) -> dict[Sequence, Normalised]:
    if method == Normalisation.WHITE_STRIPE:
        stripe = white_stripe_voxels(arrays[Sequence.T1], inside)
        return {s: white_stripe(array, inside, stripe=stripe) for s, array in arrays.items()}
    scale = percentile_0_255 if method == Normalisation.PERCENTILE_0_255 else z_score
    return {s: scale(array, inside) for s, array in arrays.items()}


def _sequence_quality(
    sequence: Sequence,
    raw: sitk.Image,
    corrected: Corrected,
    images: dict[Sequence, sitk.Image],
    arrays: dict[Sequence, np.ndarray[tuple[int, ...], np.dtype[np.float32]]],
    inside: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    alignment: Alignment,
    atlas: Atlas,
    normalised: Normalised,
) -> SequenceQuality:
    before: tuple[float | None, float | None] = (None, None)
    after = before
    if sequence != Sequence.T1C:
        smooth = smooth_for(images[sequence], atlas.grid.GetSpacing())
        unmoved = sitk.Resample(smooth, atlas.grid, alignment.atlas_to_t1c, sitk.sitkLinear, 0.0)
        before = agreement(arrays[Sequence.T1C], sitk.GetArrayFromImage(unmoved), inside)
        after = agreement(arrays[Sequence.T1C], arrays[sequence], inside)
    seen = sitk.GetArrayFromImage(_field_of_view(raw, atlas.grid, alignment.atlas_to(sequence))) > 0
    brain = sitk.GetImageFromArray(inside.astype(np.uint8))
    brain.CopyInformation(atlas.grid)
    native = sitk.Resample(brain, raw, alignment.atlas_to(sequence).GetInverse(), sitk.sitkNearestNeighbor, 0)
    spacing = raw.GetSpacing()
    moved = mean_displacement_mm(alignment.t1c_to_sequence[sequence], IDENTITY, mask_points(brain))
    return SequenceQuality(
        spacing_mm=tuple(round(s, 4) for s in spacing),
        anisotropy=anisotropy(spacing),
        signal_to_noise=signal_to_noise(sitk.GetArrayFromImage(raw), sitk.GetArrayFromImage(native) > 0),
        bias_field_range=corrected.field_range,
        nmi_before=before[0],
        nmi_after=after[0],
        correlation_before=before[1],
        correlation_after=after[1],
        shift_mm=moved,
        fraction_clipped=normalised.fraction_clipped,
        fraction_seen=float(seen[inside].mean()),
    )


def _quality(
    keys: CaseKeys,
    parameters: PrepareParameters,
    atlas: Atlas,
    alignment: Alignment,
    fitted: sitk.Image,
    brain: sitk.Image,
    arrays: dict[Sequence, np.ndarray[tuple[int, ...], np.dtype[np.float32]]],
    inside: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    sequences: dict[Sequence, SequenceQuality],
    *,
    stripped: bool,
) -> Quality:
    template = sitk.Resample(smooth_for(atlas.brain, atlas.grid.GetSpacing()), atlas.grid)
    prior = _carry_mask(atlas.mask, fitted, IDENTITY)
    overlap = dice(sitk.GetArrayFromImage(fitted) > 0, sitk.GetArrayFromImage(prior) > 0)
    matrix = np.array(compose(alignment.atlas_to_t1c_affine, IDENTITY).GetMatrix()).reshape(3, 3)
    shared, _ = agreement(arrays[Sequence.T1C], sitk.GetArrayFromImage(template), inside)
    laid = np.array(compose(alignment.atlas_to_t1c, IDENTITY).GetMatrix()).reshape(3, 3)
    volume = volume_ml(brain) * abs(float(np.linalg.det(laid)))
    scale = abs(float(np.linalg.det(matrix))) ** (1 / 3)
    flags = find_flags(brain_volume_ml=volume, atlas_dice=overlap, atlas_scale=scale, sequences=sequences)
    return Quality(
        space=keys.space,
        voxel_mm=parameters.voxel_mm,
        skull_stripped=stripped,
        brain_volume_ml=volume,
        atlas_dice=overlap,
        atlas_nmi=shared if shared is not None else 1.0,
        atlas_scale=scale,
        sequences=sequences,
        flags=flags,
    )


def _write(
    storage: Storage,
    key: str,
    array: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
    grid: sitk.Image,
    written: list[str],
) -> None:
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(grid)
    write_volume(storage, key, image)
    written.append(key)
