"""The space that cases are brought to: a T1 template, its brain mask, and the grid of prepared volumes.

``icbm152`` is the MNI ICBM152 2009a symmetric template (Fonov et al., NeuroImage 2011) at 1 mm that nilearn's wheel
ships; its T1 shows the brain alone. Any other name is a folder that holds the SRI24 atlas (Rohlfing et al., Hum Brain
Mapp 2010) as its distribution names the files: a brain ``spgr``, ``T1_brain`` or ``t1_skullstripped_sri24``, and
optionally the whole head ``spgr_unstrip``, ``T1`` or ``t1_sri24`` and a mask ``brain_mask`` or ``mask``, each
``.nii`` or ``.nii.gz``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from services.preprocessing.orientation import coarsen, orient, resampled_grid
from services.shared.errors import MissingDependency, NotFound
from services.shared.volume import read_volume_file, require_same_grid

BRAIN_NAMES = ("spgr", "T1_brain", "t1_skullstripped_sri24")
HEAD_NAMES = ("spgr_unstrip", "T1", "t1_sri24")
MASK_NAMES = ("brain_mask", "mask")


SCALP_MM = 11.0
"""Distance of the middle of the scalp from the edge of the brain mask."""
TEMPLATE_MM = 2.0
"""Templates are kept at this spacing: registration to them ends at 3 mm, and a finer mask would be no truer."""


@dataclass(frozen=True)
class Atlas:
    """A template in LPS, at 2 mm, and the grid of prepared volumes over its field of view.

    Attributes
    ----------
    name
        ``icbm152`` or ``sri24``.
    space
        Label of the space in file names: ``MNI152`` or ``SRI24``.
    digest
        Decides the result together with the name: a package version, or a hash of the files.
    brain
        T1-weighted brain, zero outside.
    mask
        Brain mask, 0 and 1.
    head
        T1-weighted whole head: the atlas's own, or the brain with the shells of :func:`synthesise_head` around it.
    head_region
        Where the head of the template resembles any head: the brain and what surrounds its upper part.
    grid
        Empty volume that prepared volumes lie on.
    """

    name: str
    space: str
    digest: str
    brain: sitk.Image
    mask: sitk.Image
    head: sitk.Image
    head_region: sitk.Image
    grid: sitk.Image


@lru_cache(maxsize=4)
def load_atlas(name: str = "icbm152", voxel_mm: float = 1.0) -> Atlas:
    """Read an atlas.

    Parameters
    ----------
    name
        ``icbm152``, or a folder that holds SRI24 volumes.
    voxel_mm
        Voxel size of :attr:`Atlas.grid`, which spans the template's field of view.

    Raises
    ------
    MissingDependency
        Where nilearn is not installed.
    NotFound
        Where the folder holds no template.
    UnreadableFile, InvalidVolume, SpaceMismatch
        Where a file of the folder is damaged or the files do not share a grid.
    """
    head = None
    if name == "icbm152":
        brain, mask = orient(read_volume_file(_icbm152_path())), None
        digest, space = f"nilearn {version('nilearn')}", "MNI152"
    else:
        folder = Path(name)
        paths = [_find(folder, names) for names in (BRAIN_NAMES, HEAD_NAMES, MASK_NAMES)]
        if paths[0] is None:
            raise NotFound(
                "the folder holds no skull-stripped T1 of the atlas",
                field="GLIAFLOW_ATLAS",
                expected=" or ".join(f"{stem}.nii[.gz]" for stem in BRAIN_NAMES),
                got=name,
                remedy="set GLIAFLOW_ATLAS to the folder of the SRI24 volumes, or to icbm152",
            )
        brain = orient(read_volume_file(paths[0]))
        head = orient(read_volume_file(paths[1])) if paths[1] else None
        mask = orient(read_volume_file(paths[2])) if paths[2] else None
        for other in (head, mask):
            if other is not None:
                require_same_grid(other, brain, name="a volume of the atlas", reference_name=paths[0].name)
        digest, space = _digest([path for path in paths if path]), "SRI24"
    grid = resampled_grid(brain, (voxel_mm, voxel_mm, voxel_mm))
    present = coarsen(sitk.Cast((brain if mask is None else mask) > 0.0, sitk.sitkFloat32), TEMPLATE_MM)
    brain, mask = coarsen(brain, TEMPLATE_MM), close_and_fill(sitk.Cast(present > 0.5, sitk.sitkUInt8))
    return Atlas(
        name="icbm152" if space == "MNI152" else "sri24",
        space=space,
        digest=digest,
        brain=brain,
        mask=mask,
        head=synthesise_head(brain, mask) if head is None else coarsen(head, TEMPLATE_MM),
        head_region=upper_head(mask),
        grid=grid,
    )


def synthesise_head(brain: sitk.Image, mask: sitk.Image) -> sitk.Image:
    """Return a whole head from a brain: fluid and skull, which are dark on T1, then scalp, which is bright.

    Aligned to a brain alone, a head is easily stretched until its scalp meets the brain's edge; the shells prevent it.
    """
    distance = _distance_mm(mask)
    array = sitk.GetArrayFromImage(brain)
    bright = float(np.percentile(array[distance < 0], 75))
    scalp = np.exp(-0.5 * ((distance - SCALP_MM) / 2.5) ** 2) * bright
    head = sitk.GetImageFromArray(np.where(distance > 1.0, scalp, array).astype(np.float32))
    head.CopyInformation(brain)
    return head


def upper_head(mask: sitk.Image) -> sitk.Image:
    """Return the brain and 18 mm around its upper two thirds, but 4 mm around the rest, where face and neck begin."""
    distance = _distance_mm(mask)
    rows = np.flatnonzero((distance < 0).any(axis=(1, 2)))
    height = np.arange(distance.shape[0])[:, None, None]
    low = height < rows[0] + (rows[-1] - rows[0]) / 3
    region = sitk.GetImageFromArray((distance < np.where(low, 4.0, 18.0)).astype(np.uint8))
    region.CopyInformation(mask)
    return region


def _distance_mm(mask: sitk.Image) -> npt.NDArray[np.float32]:
    image = sitk.SignedMaurerDistanceMap(mask, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)
    array: npt.NDArray[np.float32] = sitk.GetArrayFromImage(image)
    return array


def brain_from_nonzero(image: sitk.Image) -> sitk.Image:
    """Return the brain mask of a skull-stripped volume: its largest non-zero part, closed by 3 mm and filled."""
    array = sitk.GetArrayFromImage(image)
    mask = sitk.GetImageFromArray((array > 0).astype(np.uint8))
    mask.CopyInformation(image)
    return close_and_fill(largest_part(mask))


def largest_part(mask: sitk.Image) -> sitk.Image:
    """Return the largest connected part of a mask."""
    return sitk.Cast(sitk.RelabelComponent(sitk.ConnectedComponent(mask), sortByObjectSize=True) == 1, sitk.sitkUInt8)


def close_and_fill(mask: sitk.Image, *, radius_mm: float = 3.0) -> sitk.Image:
    """Return a mask closed by a ball of a radius in millimetres, without holes."""
    radius = [max(1, round(radius_mm / s)) if s <= 2 * radius_mm else 0 for s in mask.GetSpacing()]
    closed = sitk.BinaryMorphologicalClosing(mask, radius, sitk.sitkBall)
    return sitk.BinaryFillhole(closed)


def _icbm152_path() -> Path:
    spec = find_spec("nilearn")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependency(
            "the atlas icbm152 comes with nilearn, which is not installed",
            field="GLIAFLOW_ATLAS",
            expected="nilearn",
            remedy="pip install 'gliaflow[preprocessing]'",
        )
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
    return folder / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"


def _find(folder: Path, names: tuple[str, ...]) -> Path | None:
    candidates = (folder / f"{stem}{ending}" for stem in names for ending in (".nii.gz", ".nii"))
    return next((path for path in candidates if path.is_file()), None)


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]
