"""Stacks of 2D slices with masks, as the LGG segmentation set publishes them: one folder, or one ZIP, a scan.

A scan ``TCGA_XX_NNNN_YYYYMMDD`` holds ``…_<k>.tif`` (RGB, 8 bit: pre-contrast T1, FLAIR, post-contrast T1) and
``…_<k>_mask.tif`` (0 or 255) for slice numbers ``k``; PNG and lossless WebP are read alike.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from pipelines.archives import DAMAGED, open_archive
from services.shared.errors import DuplicateId, IdMismatch, InvalidMask, NotFound, SpaceMismatch, UnreadableFile

Pixels = npt.NDArray[np.uint8]
_SCAN = re.compile(r"(?P<patient>TCGA_[A-Z0-9]{2}_[A-Z0-9]{4})_(?P<date>\d{8})", re.I)
_SLICE = re.compile(_SCAN.pattern + r"_(?P<number>\d+)(?P<mask>_mask)?\.(tiff?|png|webp)", re.I)
_MAX_BYTES = 64 << 20
_MAX_SIDE = 4096


@dataclass(frozen=True)
class Scan:
    """Where one scan's slices lie.

    Parameters
    ----------
    patient
        As the publisher writes it: ``TCGA_CS_4941``.
    date
        Day of the scan, ISO 8601.
    place
        A folder or a ZIP.
    """

    patient: str
    date: str
    place: Path


@dataclass(frozen=True)
class SliceStack:
    """The slices of one scan, in the order of their numbers.

    Parameters
    ----------
    numbers
        Slice numbers as published; one that the release lacks is not here.
    channels
        Shape (slices, rows, columns, 3): pre-contrast T1, FLAIR, post-contrast T1.
    mask
        Shape (slices, rows, columns), where FLAIR is abnormal; None where the release has no masks.
    sha256
        Hash of the names and bytes of the files.
    """

    numbers: tuple[int, ...]
    channels: Pixels
    mask: npt.NDArray[np.bool_] | None
    sha256: str

    def copies_flair(self, channel: int) -> bool:
        """Return whether a channel repeats FLAIR: the publisher's stand-in for a sequence that was not acquired."""
        return bool(np.array_equal(self.channels[..., channel], self.channels[..., 1]))


def find_scans(source: Path) -> list[Scan]:
    """Return the scans of a release: ``source`` itself, or those in it and in its folders, sorted by patient.

    Where the same scan lies in several folders, the copy with the most files counts.

    Raises
    ------
    NotFound
        Where there is none.
    DuplicateId
        Where a patient has scans of several days.
    """
    if not source.exists():
        raise NotFound("there is no such folder", field="source", got=source.name)
    below = sorted(source.iterdir()) if source.is_dir() else []
    places = [source, *below, *(inner for folder in below if folder.is_dir() for inner in sorted(folder.iterdir()))]
    scans: dict[str, list[Scan]] = {}
    for place in places:
        found = _SCAN.fullmatch(place.name.removesuffix(".zip"))
        if found and (place.is_dir() or place.suffix == ".zip"):
            day = found["date"]
            date = f"{day[:4]}-{day[4:6]}-{day[6:]}"
            scans.setdefault(found["patient"].upper(), []).append(Scan(found["patient"].upper(), date, place))
    if not scans:
        raise NotFound(
            "no scan was found",
            field="source",
            got=source.name,
            expected="folders or ZIP files TCGA_XX_NNNN_YYYYMMDD",
            remedy="point at the folder that holds them",
        )
    for patient, copies in scans.items():
        if len({scan.date for scan in copies}) > 1:
            raise DuplicateId(
                "a patient has scans of several days",
                case=patient,
                field="source",
                expected="one scan a patient",
                got=", ".join(sorted(scan.date for scan in copies)),
                remedy="leave one of them out",
            )
    return [max(copies, key=_files_in) if len(copies) > 1 else copies[0] for _, copies in sorted(scans.items())]


def _files_in(scan: Scan) -> int:
    if scan.place.is_dir():
        return sum(1 for _ in scan.place.iterdir())
    try:
        with zipfile.ZipFile(scan.place) as archive:
            return len(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return 0


def read_stack(scan: Scan) -> SliceStack:
    """Read the slices of a scan.

    Raises
    ------
    UnreadableFile
        Where a file is damaged, too large, or not an image of the expected kind.
    NotFound, IdMismatch, DuplicateId
        Where there is no slice, a file is another scan's, a number occurs twice, or a slice or its mask is missing.
    SpaceMismatch, InvalidMask
        Where slices or masks differ in size, or a mask has more than two values.
    """
    images: dict[int, Pixels] = {}
    masks: dict[int, Pixels] = {}
    digest = hashlib.sha256()
    for name, content in _contents(scan.place):
        found = _SLICE.fullmatch(name)
        if found is None:
            continue
        if found["patient"].upper() != scan.patient:
            raise IdMismatch("a slice belongs to another patient", field=name, expected=scan.patient)
        number, kind = int(found["number"]), masks if found["mask"] else images
        if number in kind:
            raise DuplicateId("a slice number occurs twice", field=name, expected="one file a number", got=number)
        kind[number] = _decode(name, content, channels=1 if found["mask"] else 3)
        digest.update(name.encode() + b"\0" + content)
    if not images:
        raise NotFound("the scan has no slice", field=scan.place.name, expected=f"{scan.patient}_…_<k>.tif")
    if masks and set(masks) != set(images):
        lone = sorted(set(masks) ^ set(images))
        raise NotFound(
            "a slice lacks its mask, or a mask its slice",
            field=scan.place.name,
            expected="a mask for each slice, or none at all",
            got="numbers " + ", ".join(map(str, lone[:5])),
        )
    numbers = tuple(sorted(images))
    shapes = {images[n].shape[:2] for n in numbers} | {masks[n].shape for n in masks}
    if len(shapes) > 1:
        raise SpaceMismatch(
            "slices and masks differ in size",
            field=scan.place.name,
            expected="one size",
            got=", ".join(f"{rows} x {columns}" for rows, columns in sorted(shapes)),
        )
    mask = np.stack([masks[n] for n in numbers]) if masks else None
    if mask is not None and len(set(np.unique(mask)) - {0}) > 1:
        raise InvalidMask(
            "the masks have more than two values",
            field=scan.place.name,
            expected="0 and one other value",
            got=", ".join(map(str, np.unique(mask)[:6])),
        )
    channels = np.stack([images[n] for n in numbers])
    return SliceStack(numbers, channels, None if mask is None else mask > 0, digest.hexdigest())


def _contents(place: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of each file in a folder or a ZIP, sorted by name; nothing is unpacked to disk."""
    if place.is_dir():
        for path in sorted(p for p in place.iterdir() if p.is_file()):
            _check_size(path.name, path.stat().st_size)
            yield path.name, path.read_bytes()
        return
    try:
        with open_archive(place) as archive:
            for member in sorted(archive.infolist(), key=lambda info: info.filename):
                if not member.is_dir():
                    _check_size(member.filename, member.file_size)
                    yield PurePosixPath(member.filename).name, archive.read(member)
    except DAMAGED as error:
        raise UnreadableFile("the archive is damaged", field=place.name, expected="a whole ZIP", got=error) from error


def _check_size(name: str, size: int) -> None:
    if size > _MAX_BYTES:
        raise UnreadableFile("a file is too large for a slice", field=name, expected=f"{_MAX_BYTES} bytes", got=size)


def _decode(name: str, content: bytes, *, channels: int) -> Pixels:
    from PIL import Image

    expected = "RGB, 8 bit" if channels == 3 else "one channel, 8 bit or 1 bit"
    try:
        with Image.open(io.BytesIO(content)) as image:
            if max(image.size) > _MAX_SIDE or image.mode not in (("RGB",) if channels == 3 else ("L", "1")):
                raise UnreadableFile(
                    "the image is not of the expected kind",
                    field=name,
                    expected=f"{expected}, at most {_MAX_SIDE} pixels a side",
                    got=f"{image.mode}, {image.size[0]} x {image.size[1]}",
                )
            return np.array(image.convert("L") if image.mode == "1" else image, dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise UnreadableFile("the image cannot be read", field=name, expected=expected, got=error) from error
