"""Scanners: how a head becomes four images that differ in pose, grid, orientation, bias, noise and intensity scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from pipelines.phantom.anatomy import HEAD_MAX_MM, HEAD_MIN_MM, Array, Head, Tissue, smooth_noise
from pipelines.phantom.effects import Stream, random_stream
from pipelines.phantom.tumour import Tumour
from services.shared.cohort import SEQUENCES, Label, Sequence

# Signal of each tissue (order of Tissue) in arbitrary units; air is 0.
TISSUE_SIGNAL: dict[Sequence, tuple[float, ...]] = {
    Sequence.T1: (22, 58, 84, 8, 108, 48),
    Sequence.T1C: (22, 61, 87, 8, 112, 58),
    Sequence.T2: (105, 68, 48, 6, 72, 32),
    Sequence.FLAIR: (16, 66, 52, 6, 62, 36),
}
# Signal of oedema, enhancing rim, solid non-enhancing core and necrosis.
TUMOUR_SIGNAL: dict[Sequence, tuple[float, float, float, float]] = {
    Sequence.T1: (60, 58, 48, 32),
    Sequence.T1C: (62, 132, 52, 34),
    Sequence.T2: (82, 76, 88, 98),
    Sequence.FLAIR: (94, 82, 88, 62),
}
WHITE_MATTER_SIGNAL = 80.0
BRAIN_TEXTURE = 0.015


@dataclass(frozen=True)
class Scanner:
    """One scanner model. Orientations are axis codes as SimpleITK writes them; spacings multiply the voxel size."""

    name: str
    gain: float
    offset: float
    noise: float
    bias: float
    orientation: dict[Sequence, str]
    spacing: dict[Sequence, tuple[float, float, float]]


def _by_sequence(t1: str, t1c: str, t2: str, flair: str) -> dict[Sequence, str]:
    return dict(zip(SEQUENCES, (t1, t1c, t2, flair), strict=True))


_THICK_FLAIR: dict[Sequence, tuple[float, float, float]] = {
    Sequence.T1: (1.0, 1.0, 1.0),
    Sequence.T1C: (1.0, 1.0, 1.0),
    Sequence.T2: (0.9, 0.9, 1.2),
    Sequence.FLAIR: (0.9, 0.9, 1.5),
}
_AXIAL: dict[Sequence, tuple[float, float, float]] = {
    Sequence.T1: (0.95, 0.95, 1.2),
    Sequence.T1C: (0.9, 0.9, 1.1),
    Sequence.T2: (0.85, 0.85, 1.3),
    Sequence.FLAIR: (1.0, 1.0, 1.35),
}

SCANNERS: tuple[Scanner, ...] = (
    Scanner("alpha", 3.0, 0.0, 0.020, 0.20, _by_sequence("LPS", "LPS", "LPS", "LPS"), _THICK_FLAIR),
    Scanner("beta", 7.0, 10.0, 0.025, 0.30, _by_sequence("RAS", "RAS", "LPS", "LPS"), _AXIAL),
    Scanner("gamma", 12.0, 0.0, 0.020, 0.25, _by_sequence("PSR", "PSR", "LPS", "LAS"), _THICK_FLAIR),
    Scanner("delta", 2.0, 20.0, 0.030, 0.25, _by_sequence("LAS", "LAS", "LAS", "RAS"), _AXIAL),
)

_AXES = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}


@dataclass(frozen=True)
class Acquisition:
    """One sequence of one patient: its grid, and where the grid's points lie in head space."""

    grid: sitk.Image
    to_head: sitk.Transform
    scanner: Scanner


def _direction(code: str) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.array([_AXES[c] for c in code], float).T


def acquisition_grid(code: str, spacing_mm: tuple[float, float, float], tilt: sitk.Euler3DTransform) -> sitk.Image:
    """Return an empty image that covers the head, with an orientation code and a small tilt."""
    axes = _direction(code)
    extent = np.abs(axes.T @ (np.asarray(HEAD_MAX_MM) - np.asarray(HEAD_MIN_MM)))
    size = [int(n) for n in np.ceil(extent / spacing_mm)]
    direction = np.reshape(tilt.GetMatrix(), (3, 3)) @ axes
    centre = (np.asarray(HEAD_MAX_MM) + np.asarray(HEAD_MIN_MM)) / 2
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetSpacing(spacing_mm)
    grid.SetDirection(direction.ravel().tolist())
    half = (np.asarray(size) - 1) / 2 * spacing_mm
    grid.SetOrigin((centre - direction @ half).tolist())
    return grid


def _rigid(rng: np.random.Generator, *, degrees: float, mm: float) -> sitk.Euler3DTransform:
    angles = np.deg2rad(rng.uniform(-degrees, degrees, 3)).tolist()
    return sitk.Euler3DTransform((0.0, 15.0, 10.0), *angles, rng.uniform(-mm, mm, 3).tolist())


def plan_acquisitions(seed: int, index: int, *, voxel_mm: float) -> dict[Sequence, Acquisition]:
    """Return a case's four acquisitions: a scanner, a slice tilt and a head pose for each sequence."""
    rng = random_stream(seed, index, Stream.SCANNER)
    scanner = SCANNERS[int(rng.integers(len(SCANNERS)))]
    planned = {}
    for sequence in SEQUENCES:
        spacing = scanner.spacing[sequence]
        tilt = _rigid(rng, degrees=0.0 if sequence is Sequence.T1C else 5.0, mm=0.0)
        grid = acquisition_grid(
            scanner.orientation[sequence],
            (spacing[0] * voxel_mm, spacing[1] * voxel_mm, spacing[2] * voxel_mm),
            tilt,
        )
        planned[sequence] = Acquisition(grid, _rigid(rng, degrees=2.5, mm=3.0), scanner)
    return planned


def tissue_signals(seed: int, index: int, head: Head, tumour: Tumour) -> dict[Sequence, sitk.Image]:
    """Return the ideal signal of each sequence in head space: contrast without any scanner."""
    rng = random_stream(seed, index, Stream.ANATOMY).spawn(1)[0]
    spacing_mm = float(head.grid.GetSpacing()[0])
    weights = tumour.weights(spacing_mm)
    lesion = sum(weights.values(), np.zeros(()))
    signals = {}
    for sequence in SEQUENCES:
        signal = np.tensordot(np.asarray(TISSUE_SIGNAL[sequence], np.float32), head.fractions, axes=1)
        signal *= 1 + BRAIN_TEXTURE * smooth_noise(rng, signal.shape, length_mm=3.0, spacing_mm=spacing_mm)
        oedema, rim, solid, necrosis = TUMOUR_SIGNAL[sequence]
        plan = tumour.plan
        if sequence is Sequence.T1C:
            rim = 52 + (rim - 52) * plan.enhancement
        core = solid + (necrosis - solid) * plan.necrosis
        inside = (
            weights[Label.OEDEMA] * oedema + weights[Label.ENHANCING] * rim + weights[Label.NECROTIC_CORE] * core
        ) * (1 + tumour.texture[sequence])
        signal[tumour.box] = signal[tumour.box] * (1 - lesion) + inside
        signals[sequence] = head.image(signal)
    return signals


def acquire(seed: int, index: int, sequence: Sequence, signal: sitk.Image, acquisition: Acquisition) -> sitk.Image:
    """Return what the scanner stores: the signal under pose, bias field, Rician noise, gain and offset, as int16."""
    rng = random_stream(seed, index, Stream.SCANNER).spawn(len(SEQUENCES))[SEQUENCES.index(sequence)]
    scanner, grid = acquisition.scanner, acquisition.grid
    clean: Array = sitk.GetArrayFromImage(sitk.Resample(signal, grid, acquisition.to_head, sitk.sitkLinear, 0.0))
    received = clean * _bias_field(rng, clean.shape, strength=scanner.bias)
    sd = scanner.noise * WHITE_MATTER_SIGNAL
    real = received + rng.normal(0, sd, clean.shape)
    magnitude = np.hypot(real, rng.normal(0, sd, clean.shape))
    gain = scanner.gain * np.exp(rng.normal(0, 0.2))
    stored = np.round(magnitude * gain + scanner.offset).clip(0, np.iinfo(np.int16).max).astype(np.int16)
    image = sitk.GetImageFromArray(stored)
    image.CopyInformation(grid)
    return image


def _bias_field(rng: np.random.Generator, shape: tuple[int, ...], *, strength: float) -> Array:
    """Return a multiplicative field: the exponential of a random cubic within plus or minus ``strength``."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
    powers = [(i, j, k) for i in range(4) for j in range(4) for k in range(4) if 1 <= i + j + k <= 3]
    weights = rng.normal(0, 1, len(powers))
    total = np.zeros(shape)
    for weight, (i, j, k) in zip(weights, powers, strict=True):
        total += weight / (i + j + k) * (z**i * y**j * x**k)
    total -= total.mean()
    field: Array = np.exp(strength * total / np.abs(total).max()).astype(np.float32)
    return field


@dataclass(frozen=True)
class DiffusionSeries:
    """A 4D series with its b-values (s/mm2) and FSL gradient directions, shape (3, volumes)."""

    image: sitk.Image
    b_values: tuple[int, ...]
    directions: np.ndarray[tuple[int, int], np.dtype[np.float64]]


B0_VOLUMES = 2
B_VALUE = 1000
GRADIENTS = 12
# Mean diffusivity (um2/ms), fractional anisotropy and b=0 signal of each tissue (order of Tissue).
_DIFFUSION_TISSUE = (
    (3.0, 0.0, 105.0),
    (0.85, 0.12, 68.0),
    (0.78, 0.6, 48.0),
    (0, 0, 2.0),
    (0.2, 0, 20.0),
    (1.3, 0.2, 30.0),
)
_OEDEMA_DIFFUSION = (1.45, 0.2, 82.0)


def acquire_diffusion(seed: int, index: int, head: Head, tumour: Tumour, *, voxel_mm: float) -> DiffusionSeries:
    """Return a small diffusion series on a grid of twice the voxel size, from one tensor a voxel.

    White matter runs left-right near the midline, up-down beside it and front-back laterally. In the tumour core
    FA and MD are those of the plan (risk lowers FA and raises MD, grade lowers MD).
    """
    rng = random_stream(seed, index, Stream.DIFFUSION)
    grid = acquisition_grid("LPS", (2 * voxel_mm,) * 3, sitk.Euler3DTransform())
    pose = _rigid(rng, degrees=2.5, mm=3.0)
    lesion = tumour.weights(float(head.grid.GetSpacing()[0]))
    md, anisotropy, b0 = (
        sum(
            (np.float32(values[kind]) * head.fractions[t] for t, values in zip(Tissue, _DIFFUSION_TISSUE, strict=True)),
            np.zeros(head.fractions.shape[1:], np.float32),
        )
        for kind in range(3)
    )
    core = lesion[Label.ENHANCING] + lesion[Label.NECROTIC_CORE]
    rest = 1 - core - lesion[Label.OEDEMA]
    for field, in_core, in_oedema in (
        (md, tumour.plan.md_um2_ms, _OEDEMA_DIFFUSION[0]),
        (anisotropy, tumour.plan.fa, _OEDEMA_DIFFUSION[1]),
        (b0, 85.0, _OEDEMA_DIFFUSION[2]),
    ):
        field[tumour.box] = field[tumour.box] * rest + core * in_core + lesion[Label.OEDEMA] * in_oedema

    def sample(field: Array) -> Array:
        array: Array = sitk.GetArrayFromImage(sitk.Resample(head.image(field), grid, pose, sitk.sitkLinear, 0.0))
        return array

    md, anisotropy, b0 = sample(md), sample(anisotropy).clip(0, 0.95), sample(b0)
    fibres = _fibre_directions(grid, pose)
    parallel, across = _eigenvalues(md, anisotropy)

    directions = _spread_directions(GRADIENTS)
    rotation = np.reshape(pose.GetMatrix(), (3, 3))
    volumes = []
    sd = 0.02 * WHITE_MATTER_SIGNAL
    for n in range(B0_VOLUMES + GRADIENTS):
        attenuation = np.ones_like(b0)
        if n >= B0_VOLUMES:
            # The gradient turns into head space with the pose.
            along = np.einsum("i,izyx->zyx", rotation @ directions[n - B0_VOLUMES], fibres)
            attenuation = np.exp(-B_VALUE / 1000 * (across + (parallel - across) * along**2))
        real = b0 * attenuation + rng.normal(0, sd, b0.shape)
        magnitude = np.hypot(real, rng.normal(0, sd, b0.shape))
        volume = sitk.GetImageFromArray(np.round(magnitude * 10).clip(0, 32767).astype(np.int16))
        volume.CopyInformation(grid)
        volumes.append(volume)
    stored = np.zeros((3, B0_VOLUMES + GRADIENTS))
    # FSL: along the voxel axes, x mirrored where the NIfTI affine has a positive determinant, as it has for LPS axes.
    stored[:, B0_VOLUMES:] = (directions * (-1, 1, 1)).T
    return DiffusionSeries(sitk.JoinSeries(volumes), (0,) * B0_VOLUMES + (B_VALUE,) * GRADIENTS, stored)


def _eigenvalues(md: Array, anisotropy: Array) -> tuple[Array, Array]:
    """Return the axial and radial diffusivity of a prolate tensor with this MD and FA."""
    ratio = anisotropy / np.sqrt(3 - 2 * anisotropy**2)
    return md * (1 + 2 * ratio), md * (1 - ratio)


def _fibre_directions(grid: sitk.Image, pose: sitk.Transform) -> Array:
    """Return the unit fibre direction at each voxel, shape (3, z, y, x), in head space."""
    indices = np.indices(grid.GetSize()[::-1]).reshape(3, -1)[::-1]
    direction = np.reshape(grid.GetDirection(), (3, 3))
    points = np.asarray(grid.GetOrigin())[:, None] + direction @ (np.asarray(grid.GetSpacing())[:, None] * indices)
    rotation, centre = np.reshape(pose.GetMatrix(), (3, 3)), np.asarray(pose.GetCenter())[:, None]
    x = (rotation @ (points - centre) + centre + np.asarray(pose.GetTranslation())[:, None])[0]
    midline, lateral = np.exp(-((x / 14) ** 2)), 1 / (1 + np.exp(-(np.abs(x) - 34) / 4))
    fibres = np.stack([midline, (1 - midline) * lateral, (1 - midline) * (1 - lateral)])
    fibres /= np.linalg.norm(fibres, axis=0)
    result: Array = fibres.reshape(3, *grid.GetSize()[::-1]).astype(np.float32)
    return result


def _spread_directions(count: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return unit vectors spread over a half sphere (Fibonacci lattice), shape (count, 3)."""
    i = np.arange(count) + 0.5
    z = i / count
    phi = np.pi * (1 + 5**0.5) * i
    return np.stack([np.cos(phi) * np.sqrt(1 - z**2), np.sin(phi) * np.sqrt(1 - z**2), z], axis=1)
