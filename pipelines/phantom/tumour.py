"""Gliomas: an irregular core with an enhancing rim and necrosis, in oedema, as smooth fields in head space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from pipelines.phantom.anatomy import Array, Head, Tissue, smooth_noise
from pipelines.phantom.clinic import Biology
from pipelines.phantom.effects import EFFECTS, Stream, random_stream
from services.shared.cohort import SEQUENCES, Label, Sequence

FAR_MM = 100.0
_MARGIN_MM = 12.0
_SHAPE_NOISE = 0.16


@dataclass(frozen=True)
class TumourPlan:
    """What a tumour is like before it has a place; drawn without any image.

    ``rim_thickness_mm`` is 0 for a tumour that does not enhance; ``necrosis`` (0 to 1) says how much the core's
    signal is that of necrosis rather than of solid non-enhancing tumour.
    """

    core_radius_mm: float
    axis_ratios: tuple[float, float, float]
    oedema_width_mm: float
    rim_thickness_mm: float
    rim_coverage: float
    enhancement: float
    necrosis: float
    core_heterogeneity: float
    texture_length_mm: float
    fa: float
    md_um2_ms: float

    @property
    def enhancing_ml(self) -> float:
        """Expected volume of the enhancing rim, mL (before shape noise)."""
        inner = max(self.core_radius_mm - self.rim_thickness_mm, 0)
        return float(4 / 3 * np.pi * (self.core_radius_mm**3 - inner**3) * self.rim_coverage / 1000)

    @property
    def core_ml(self) -> float:
        """Expected volume of the tumour core, mL (before shape noise)."""
        return float(4 / 3 * np.pi * self.core_radius_mm**3 / 1000)


def draw_tumour_plan(seed: int, index: int, biology: Biology) -> TumourPlan:
    """Return the plan of a case's tumour: where grade, ATRX and risk act on images."""
    rng = random_stream(seed, index, Stream.TUMOUR)
    grade, e = biology.grade, EFFECTS
    radius = e.core_radius_mm[grade] * np.exp(rng.normal(0, e.core_radius_log_sd))
    ratios = np.exp(rng.normal(0, 0.15, 3))
    ratios /= np.prod(ratios) ** (1 / 3)
    oedema = max(rng.normal(e.oedema_width_mm[grade], e.oedema_width_sd_mm), 3.5)
    enhances = rng.random() < e.rim_probability[grade]
    thickness = rng.normal(e.rim_thickness_mm[grade], e.rim_thickness_sd_mm)
    thickness += e.rim_thickness_high_risk_mm * biology.high_risk
    necrosis = rng.normal(e.necrosis[grade] + e.necrosis_high_risk * biology.high_risk, e.necrosis_sd)
    heterogeneity = e.core_heterogeneity[grade] * np.exp(rng.normal(0, e.core_heterogeneity_log_sd))
    length = e.texture_length_mm[biology.atrx] * np.exp(rng.normal(0, e.texture_length_log_sd))
    enhancement = np.exp(rng.normal(0, 0.15))
    fa = float(np.clip(rng.normal(e.tumour_fa[biology.risk_group], 0.05), 0.05, 0.9))
    md = rng.normal(e.tumour_md_um2_ms[grade] + e.tumour_md_high_risk_um2_ms * biology.high_risk, 0.08)
    return TumourPlan(
        core_radius_mm=float(radius),
        axis_ratios=(float(ratios[0]), float(ratios[1]), float(ratios[2])),
        oedema_width_mm=float(oedema),
        rim_thickness_mm=float(max(thickness, 3.0)) if enhances else 0.0,
        rim_coverage=e.rim_coverage[grade] if enhances else 0.0,
        enhancement=float(enhancement),
        necrosis=float(np.clip(necrosis, 0, 1)),
        core_heterogeneity=float(heterogeneity),
        texture_length_mm=float(length),
        fa=fa,
        md_um2_ms=float(md),
    )


@dataclass(frozen=True)
class Tumour:
    """A tumour in a head. Fields are distances in mm, negative inside, on the head's working grid within a box.

    ``core`` bounds TC, ``lesion`` bounds WT, ``rim`` bounds what enhances; ``texture`` holds each sequence's relative
    signal change.
    """

    plan: TumourPlan
    box: tuple[slice, slice, slice]
    core: Array
    rim: Array
    lesion: Array
    texture: dict[Sequence, Array]

    def weights(self, spacing_mm: float) -> dict[Label, Array]:
        """Return the soft membership of each label within the box."""

        def inside(distance_mm: Array) -> Array:
            ramp: Array = (0.5 - distance_mm / spacing_mm).clip(0, 1)
            return ramp

        core, lesion = inside(self.core), inside(self.lesion)
        rim = np.minimum(inside(self.rim), core)
        return {
            Label.ENHANCING: rim,
            Label.NECROTIC_CORE: core - rim,
            Label.OEDEMA: (np.maximum(lesion, core) - core),
        }

    def labels_on(self, head: Head, grid: sitk.Image, transform: sitk.Transform) -> sitk.Image:
        """Return the expert segmentation on a grid; ``transform`` takes the grid's points to head space."""

        def sample(field: Array) -> Array:
            whole = np.full(head.fractions.shape[1:], FAR_MM, np.float32)
            whole[self.box] = field
            image = sitk.Resample(head.image(whole), grid, transform, sitk.sitkLinear, FAR_MM)
            array: Array = sitk.GetArrayFromImage(image)
            return array

        core, rim, lesion = sample(self.core), sample(self.rim), sample(self.lesion)
        labels = np.zeros(core.shape, np.uint8)
        labels[lesion < 0] = Label.OEDEMA
        labels[core < 0] = Label.NECROTIC_CORE
        labels[(core < 0) & (rim < 0)] = Label.ENHANCING
        image = sitk.GetImageFromArray(labels)
        image.CopyInformation(grid)
        return image


def place_tumour(seed: int, index: int, plan: TumourPlan, head: Head) -> Tumour:
    """Return the planned tumour at a random place in a subject's cerebral white matter."""
    rng = random_stream(seed, index, Stream.TEXTURE)
    spacing_mm = float(head.grid.GetSpacing()[0])
    centre = _draw_centre_mm(rng, head, plan.core_radius_mm)
    reach = 1.35 * plan.core_radius_mm * max(plan.axis_ratios) + plan.oedema_width_mm + _MARGIN_MM
    box = _box_around(head.grid, centre, reach)
    x, y, z = (
        p[tuple(b if n > 1 else slice(None) for b, n in zip(box, p.shape, strict=True))] for p in head.points_mm()
    )
    shape = (z.size, y.size, x.size)

    def noise(length_mm: float) -> Array:
        return smooth_noise(rng, shape, length_mm=length_mm, spacing_mm=spacing_mm)

    scaled = sum(((p - c) / r) ** 2 for p, c, r in zip((x, y, z), centre, plan.axis_ratios, strict=True))
    irregular = _SHAPE_NOISE * plan.core_radius_mm * noise(plan.core_radius_mm / 2.2)
    outside_brain = (0.5 - head.brain[box]) * FAR_MM
    core = np.maximum(np.sqrt(scaled) - plan.core_radius_mm + irregular, outside_brain).astype(np.float32)

    white = ndimage.gaussian_filter(head.fractions[Tissue.WHITE][box], 4 / spacing_mm)
    fluid = (head.fractions[Tissue.CSF][box] - 0.5) * FAR_MM
    spread = plan.oedema_width_mm * (0.35 + 0.9 * white) + 1.5 * noise(6.0)
    lesion = np.maximum.reduce([core - spread, outside_brain, fluid])
    lesion = np.minimum(lesion, core).astype(np.float32)

    rim = np.full(shape, FAR_MM, np.float32)
    if plan.rim_thickness_mm > 0:
        patches = noise(plan.core_radius_mm / 2.5)
        shell = (core < 0) & (core > -plan.rim_thickness_mm)
        threshold = np.quantile(patches[shell], 1 - plan.rim_coverage) if shell.any() else -FAR_MM
        rim = np.maximum(-plan.rim_thickness_mm - core, 3.0 * (threshold - patches)).astype(np.float32)

    texture = {}
    within_core = (0.5 - core / spacing_mm).clip(0, 1)
    for sequence in SEQUENCES:
        carries_atrx = sequence in (Sequence.T1C, Sequence.FLAIR)
        length = plan.texture_length_mm if carries_atrx else EFFECTS.texture_length_mm["WT"]
        lesion_texture = EFFECTS.texture_amplitude * noise(length)
        core_texture = plan.core_heterogeneity * noise(EFFECTS.core_heterogeneity_length_mm)
        texture[sequence] = lesion_texture + within_core * core_texture
    return Tumour(plan, box, core, rim, lesion, texture)


def _draw_centre_mm(rng: np.random.Generator, head: Head, radius_mm: float) -> tuple[float, float, float]:
    """Draw a point of cerebral white matter (above the tentorium, well inside the brain)."""
    spacing_mm = float(head.grid.GetSpacing()[0])
    depth = ndimage.uniform_filter(head.brain, max(int(1.6 * radius_mm / spacing_mm), 3))
    x, _, z = head.points_mm()
    allowed = (head.fractions[Tissue.WHITE] > 0.7) & (depth > 0.93) & (z > -5) & (np.abs(x) > 12)
    if not allowed.any():
        allowed = head.fractions[Tissue.WHITE] > 0.7
    index = np.argwhere(allowed)[rng.integers(int(allowed.sum()))]
    origin = np.asarray(head.grid.GetOrigin())
    place = origin + index[::-1] * spacing_mm + rng.uniform(-0.5, 0.5, 3) * spacing_mm
    return float(place[0]), float(place[1]), float(place[2])


def _box_around(grid: sitk.Image, centre_mm: tuple[float, float, float], reach_mm: float) -> tuple[slice, slice, slice]:
    spans = []
    for origin, spacing, size, centre in zip(
        grid.GetOrigin(), grid.GetSpacing(), grid.GetSize(), centre_mm, strict=True
    ):
        first = int(np.floor((centre - reach_mm - origin) / spacing))
        last = int(np.ceil((centre + reach_mm - origin) / spacing)) + 1
        spans.append(slice(max(first, 0), min(last, size)))
    return spans[2], spans[1], spans[0]
