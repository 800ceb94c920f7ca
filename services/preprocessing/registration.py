"""Find the linear transform that lays one volume over another.

Every transform here takes physical points (mm, LPS) of the *fixed* volume to points of the *moving* one, which is
what resampling needs. The metric is Mattes mutual information (Mattes et al., IEEE TMI 2003) on winsorised
intensities over a pyramid of smoothed grids, with samples drawn from a fixed seed; ITK's threads are bounded to one
by the caller, so the same input gives the same transform to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage, optimize

from services.preprocessing.orientation import coarsen

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Level:
    """One level of a registration pyramid."""

    spacing_mm: float
    step_mm: float
    samples: int
    iterations: int = 120


RIGID_LEVELS = (Level(6.0, 2.0, 10_000), Level(3.0, 1.0, 30_000), Level(1.5, 0.3, 50_000))
AFFINE_LEVELS = (Level(6.0, 1.5, 10_000), Level(3.0, 0.7, 30_000))

OUTSIDE_COST = 0.05
"""What it costs, in normalised mutual information, to see nothing of the fixed volume."""
SIZE_COST, USUAL_SIZE, SIZE_DEVIATION, SHAPE_DEVIATION = 0.01, -0.03, 0.07, 0.08
"""What one standard deviation of size, or of length along one axis, costs; sizes are logarithms of a head's size over
the template's, and the MNI template is larger than most heads."""


def affine(
    matrix: npt.ArrayLike, translation: npt.ArrayLike, *, centre: npt.ArrayLike = (0, 0, 0)
) -> sitk.AffineTransform:
    """Return ``x ↦ M (x - c) + c + t``."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(np.asarray(matrix, float).ravel().tolist())
    transform.SetCenter(np.asarray(centre, float).tolist())
    transform.SetTranslation(np.asarray(translation, float).tolist())
    return transform


def matrix_and_offset(transform: sitk.Transform) -> tuple[Points, Points]:
    """Return ``A`` (3, 3) and ``b`` (3,) of a linear transform ``x ↦ A x + b``."""
    offset = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(transform.TransformPoint(tuple(map(float, e)))) - offset for e in np.eye(3)]
    return np.stack(columns, axis=1), offset


def compose(outer: sitk.Transform, inner: sitk.Transform) -> sitk.AffineTransform:
    """Return one transform that does ``inner`` first and ``outer`` after it."""
    a, b = matrix_and_offset(outer)
    c, d = matrix_and_offset(inner)
    return affine(a @ c, a @ d + b)


def nearest_rigid(transform: sitk.Transform, *, centre: npt.ArrayLike) -> sitk.AffineTransform:
    """Return the rigid transform nearest to a linear one that moves ``centre`` to the same place.

    The rotation is the orthogonal factor of the matrix's polar decomposition.
    """
    matrix, _ = matrix_and_offset(transform)
    u, _, vt = np.linalg.svd(matrix)
    rotation = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    moved = np.array(transform.TransformPoint(tuple(np.asarray(centre, float))))
    return affine(rotation, moved - np.asarray(centre, float), centre=centre)


def mean_displacement_mm(a: sitk.Transform, b: sitk.Transform, points: Points) -> float:
    """Return how far two transforms take the same points (n, 3) apart, on average."""
    (m, s), (n, t) = matrix_and_offset(a), matrix_and_offset(b)
    return float(np.linalg.norm(points @ (m - n).T + (s - t), axis=1).mean())


def mask_points(mask: sitk.Image, *, count: int = 2000) -> Points:
    """Return the physical places (n, 3) of evenly chosen voxels of a mask."""
    indices = np.argwhere(sitk.GetArrayFromImage(mask) > 0)[:, ::-1]
    chosen = indices[:: max(1, len(indices) // count)].astype(float)
    direction = np.array(mask.GetDirection()).reshape(3, 3)
    return np.asarray(chosen * np.array(mask.GetSpacing()) @ direction.T + np.array(mask.GetOrigin()))


def winsorise(image: sitk.Image, *, low: float = 0.5, high: float = 99.5) -> sitk.Image:
    """Return the volume with intensities clipped to percentiles of those above zero, so that few voxels cannot spread
    the histogram."""
    array = sitk.GetArrayFromImage(image)
    positive = array[array > 0]
    if positive.size == 0:
        return image
    bottom, top = np.percentile(positive, (low, high))
    return sitk.Clamp(image, sitk.sitkFloat32, min(float(bottom), 0.0), float(top))


def register_rigid(
    fixed: sitk.Image,
    moving: sitk.Image,
    *,
    mask: sitk.Image,
    seed: int,
    finest_mm: float = 1.5,
    least_gain: float = 0.0,
) -> sitk.Euler3DTransform:
    """Return the rigid transform from a fixed volume to a moving one of the same head.

    Parameters
    ----------
    mask
        Where the metric looks, on any grid in the fixed volume's space.
    seed
        Seed of the metric's samples.
    finest_mm
        Levels of the pyramid finer than this are left out.
    least_gain
        Normalised mutual information that must be gained over the header's geometry.

    Notes
    -----
    The search starts from the better of two places: the scanner's geometry as stored in the headers, and the
    volumes' centres of mass brought together. Where the result does not match better than the header's geometry did,
    the header's geometry is returned.
    """
    fixed, moving = winsorise(fixed), winsorise(moving)
    centre = mask_points(mask).mean(axis=0)
    header = sitk.Euler3DTransform()
    header.SetCenter(centre.tolist())
    moments = sitk.Euler3DTransform(
        sitk.CenteredTransformInitializer(
            fixed, moving, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
        )
    )
    moments.SetCenter(centre.tolist())
    score = information_score(coarsen(fixed, 4.0), coarsen(moving, 4.0), mask)
    transform = sitk.Euler3DTransform(min((header, moments), key=score))
    for level in RIGID_LEVELS:
        if level.spacing_mm >= finest_mm or level is RIGID_LEVELS[0]:
            _optimise(transform, fixed, moving, mask, level, seed=seed)
    return transform if score(header) - score(transform) > least_gain else header


def register_to_template(
    image: sitk.Image,
    template: sitk.Image,
    region: sitk.Image,
    *,
    centre: Points,
    starts: Iterable[tuple[float, float, float]],
    seed: int,
) -> sitk.AffineTransform:
    """Return the affine transform from a template to a head or brain.

    Parameters
    ----------
    template
        T1-weighted template.
    region
        Where on the template's grid the metric looks.
    centre
        Centre of the template's brain, mm.
    starts
        Where the centre of the brain may be in the image, mm.
    seed
        Seed of the metric's samples.

    Notes
    -----
    Heads are cut off at different heights and the nose may point anywhere, so a gradient search from one start is
    easily lost. Many poses are scored on a coarse grid first, the best few are refined without derivatives, and the
    best of these starts an affine search by gradient. Sizes have a prior, because mutual information alone grows a
    template until its brain meets the skull: the affine result stands only where it is better with the prior, too.
    """
    image, template = winsorise(image), winsorise(template)

    def penalised(spacing_mm: float, samples: int) -> Callable[[sitk.Transform], float]:
        information = information_score(
            coarsen(template, spacing_mm), coarsen(image, spacing_mm / 1.5), region, samples=samples
        )
        return lambda transform: information(transform) + _size_cost(transform)

    score = penalised(6.0, 6_000)

    def coarse(pose: npt.ArrayLike) -> float:
        return score(_pose(pose, centre))

    poses = sorted(
        (
            (pitch, 0.0, 0.0, *(np.add(start, (0.0, dy, dz)) - centre), 0.0)
            for start in starts
            for pitch in (-0.4, -0.2, 0.0, 0.2, 0.4)
            for dy in (-15.0, 0.0, 15.0)
            for dz in (-24.0, -12.0, 0.0, 12.0, 24.0)
        ),
        key=coarse,
    )
    found = [_refine(coarse, pose) for pose in _spread(poses, count=6)]
    best, _ = min(found, key=lambda pair: pair[1])
    candidates = [_pose(best, centre), _pose(best, centre)]
    for level in AFFINE_LEVELS:
        _optimise(candidates[-1], template, image, region, level, seed=seed)
    return min(candidates, key=penalised(4.0, 20_000))


def _size_cost(transform: sitk.Transform) -> float:
    matrix, _ = matrix_and_offset(transform)
    log_sizes = np.log(np.linalg.svd(matrix, compute_uv=False))
    size = float(log_sizes.mean())
    shape = float((((log_sizes - size) / SHAPE_DEVIATION) ** 2).sum())
    return SIZE_COST * (((size - USUAL_SIZE) / SIZE_DEVIATION) ** 2 + shape)


def _refine(score: Callable[[npt.ArrayLike], float], pose: tuple[float, ...]) -> tuple[tuple[float, ...], float]:
    """Return the pose that a simplex search (Nelder and Mead) finds, and its score."""
    start = np.array(pose)
    steps = np.diag([0.15, 0.1, 0.1, 6.0, 6.0, 6.0, 0.06])
    options = {"initial_simplex": np.vstack([start, start + steps]), "maxfev": 220, "xatol": 1e-3, "fatol": 1e-6}
    found = optimize.minimize(score, start, method="Nelder-Mead", options=options)
    return tuple(map(float, found.x)), float(found.fun)


def information_score(
    fixed: sitk.Image, moving: sitk.Image, mask: sitk.Image, *, bins: int = 24, samples: int = 12_000
) -> Callable[[sitk.Transform], float]:
    """Return a function that gives a transform's negative normalised mutual information (Studholme et al., 1999).

    Points that fall outside the moving volume are left out, as a head is often cut off by the field of view; their
    share costs a little, so that a transform cannot win by leaving the volume.
    """
    mask = sitk.Resample(mask, fixed, sitk.Transform(3, sitk.sitkIdentity), sitk.sitkNearestNeighbor, 0)
    inside = sitk.GetArrayFromImage(mask) > 0
    points = mask_points(mask, count=samples)
    stride = max(1, int(inside.sum()) // samples)
    fixed_bins = _binned(sitk.GetArrayFromImage(fixed)[inside][::stride], bins)
    array = sitk.GetArrayFromImage(moving)
    moving_bins = _binned(array, bins).reshape(array.shape).astype(np.float32)
    origin, size = np.array(moving.GetOrigin()), np.array(moving.GetSize())
    to_index = np.linalg.inv(np.array(moving.GetDirection()).reshape(3, 3) * np.array(moving.GetSpacing()))

    def score(transform: sitk.Transform) -> float:
        matrix, offset = matrix_and_offset(transform)
        index = (points @ matrix.T + (offset - origin)) @ to_index.T
        seen = ((index > -0.5) & (index < size - 0.5)).all(axis=1)
        share = float(seen.mean())
        if share < 0.5:
            return 0.0
        sampled = ndimage.map_coordinates(moving_bins, index[seen].T[::-1], order=1, mode="nearest")
        joint = np.bincount(fixed_bins[seen] * bins + np.rint(sampled).astype(np.intp), minlength=bins * bins)
        return OUTSIDE_COST * (1.0 - share) - normalised_mutual_information(joint.reshape(bins, bins))

    return score


def normalised_mutual_information(joint: npt.NDArray[np.integer]) -> float:
    """Return (H(a) + H(b)) / H(a, b) of a joint histogram: 1 for independent, 2 for identical volumes."""

    def entropy(counts: npt.NDArray[np.integer]) -> float:
        p = counts[counts > 0] / counts.sum()
        return float(-(p * np.log(p)).sum())

    together = entropy(joint.ravel())
    return (entropy(joint.sum(axis=0)) + entropy(joint.sum(axis=1))) / together if together > 0 else 1.0


def dilate(mask: sitk.Image, margin_mm: float) -> sitk.Image:
    """Return a mask grown by a distance in millimetres."""
    distance = sitk.SignedMaurerDistanceMap(mask, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)
    return sitk.Cast(distance <= margin_mm, sitk.sitkUInt8)


def _pose(parameters: npt.ArrayLike, centre: Points) -> sitk.AffineTransform:
    rx, ry, rz, tx, ty, tz, log_scale = np.asarray(parameters, float)
    rotation = sitk.Euler3DTransform((0.0, 0.0, 0.0), rx, ry, rz)
    matrix = np.exp(log_scale) * np.array(rotation.GetMatrix()).reshape(3, 3)
    return affine(matrix, (tx, ty, tz), centre=centre)


def _spread(poses: list[tuple[float, ...]], *, count: int) -> list[tuple[float, ...]]:
    """Return the best poses that are not next to one another."""
    scale = np.array([0.2, 0.2, 0.2, 12.0, 12.0, 12.0, 0.1])
    chosen: list[tuple[float, ...]] = []
    for pose in poses:
        if all(np.abs((np.array(pose) - np.array(other)) / scale).max() > 1.5 for other in chosen):
            chosen.append(pose)
        if len(chosen) == count:
            break
    return chosen


def _binned(values: npt.NDArray[np.floating], bins: int) -> npt.NDArray[np.intp]:
    low, high = float(values.min()), float(values.max())
    scale = (bins - 1) / (high - low) if high > low else 0.0
    binned: npt.NDArray[np.intp] = np.rint((values.ravel() - low) * scale).astype(np.intp)
    return binned


def _crop_to(mask: sitk.Image, *volumes: sitk.Image) -> list[sitk.Image]:
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(mask)
    box = shape.GetBoundingBox(1)
    return [sitk.RegionOfInterest(volume, box[3:], box[:3]) for volume in (mask, *volumes)]


def _optimise(
    transform: sitk.Transform, fixed: sitk.Image, moving: sitk.Image, mask: sitk.Image, level: Level, *, seed: int
) -> None:
    """Improve a transform in place by gradient descent on one level of the pyramid."""
    grid = coarsen(fixed, level.spacing_mm)
    on_grid = sitk.Resample(mask, grid, sitk.Transform(3, sitk.sitkIdentity), sitk.sitkNearestNeighbor, 0)
    on_grid, grid = _crop_to(on_grid, grid)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=32)
    method.SetMetricFixedMask(on_grid)
    share = level.samples / grid.GetNumberOfPixels()
    if share < 1:
        method.SetMetricSamplingStrategy(method.RANDOM)
        # SimpleITK takes seed 0 for the wall clock.
        method.SetMetricSamplingPercentage(share, seed + 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=level.step_mm,
        minStep=level.step_mm / 500,
        numberOfIterations=level.iterations,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-9,
        estimateLearningRate=method.Once,
        maximumStepSizeInPhysicalUnits=level.step_mm,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(grid, coarsen(moving, level.spacing_mm / 2))
