"""Series of images from The Cancer Imaging Archive through its NBIA REST interface.

``getSeries`` lists a collection's series; ``getImageWithMD5Hash`` sends one series as a ZIP archive with its images and
``md5hashes.csv`` (``Filename,MD5Hash``). Layout: ``<PatientID>/<StudyInstanceUID>/<SeriesInstanceUID>/*.dcm`` with the
list of checksums in ``checksums/<SeriesInstanceUID>.csv``. Archives are made while they are sent, so that NBIA can
resume none: what goes on after a break is the list of series, one at a time.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import httpx
from pydantic import BaseModel, ConfigDict, Field

from pipelines.archives import DAMAGED, open_archive
from pipelines.fetch.connection import Connection
from pipelines.fetch.download import CHUNK, Remote, digests_of, download, require_space, write_whole
from pipelines.fetch.plan import FetchedFile, Plan, Selection, Statement, read_rows, safe_path
from services.shared.errors import ChangedFile, GliaflowError, InvalidKey, NotFound, TooLarge, UnreadableFile

_LIST = "md5hashes.csv"
_LARGEST_LIST = 16 << 20
_INCOMING = ".incoming"
_UID = r"^[0-9]+(\.[0-9]+)*$"


class SeriesRow(BaseModel):
    """The columns of ``getSeries`` that are needed."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    series: str = Field(alias="SeriesInstanceUID", pattern=_UID, max_length=64)
    study: str = Field(alias="StudyInstanceUID", pattern=_UID, max_length=64)
    patient: str = Field(alias="PatientID", min_length=1, max_length=64)
    images: int = Field(alias="ImageCount", ge=0)
    size: int | None = Field(None, alias="FileSize", ge=0)
    licence: str | None = Field(None, alias="LicenseName")


@dataclass(frozen=True)
class Series:
    """One series of images."""

    path: str
    url: str
    uid: str
    size: int
    images: int

    @property
    def listed_in(self) -> str:
        """Where the publisher's checksums of its images stand below OUT."""
        return f"checksums/{self.uid}.csv"

    def find(self, out: Path, earlier: Statement | None) -> FetchedFile | None:
        """Return the series where every image has the publisher's checksum."""
        del earlier
        folder, listing = out / self.path, out / self.listed_in
        if not folder.is_dir() or not listing.is_file():
            return None
        try:
            stated = _read_checksums(listing.read_bytes(), self.uid)
        except UnreadableFile:
            return None
        names = {file.name for file in folder.iterdir()}
        if names != set(stated) or len(names) != self.images:
            return None
        digests = {name: digests_of(folder / name) for name in stated}
        if any(digests[name].md5 != md5 for name, md5 in stated.items()):
            return None
        return self._describe(out, sum(digest.size for digest in digests.values()), len(stated))

    def _describe(self, out: Path, size: int, images: int) -> FetchedFile:
        return FetchedFile(
            path=self.path,
            size=size,
            sha256=digests_of(out / self.listed_in).sha256,
            url=self.url,
            images=images,
            listed_in=self.listed_in,
        )

    def fetch(
        self, connection: Connection, out: Path, *, largest_bytes: int | None, progress: Callable[[int], None]
    ) -> tuple[FetchedFile, tuple[str, ...]]:
        """Bring the archive, check every image, and give the folder its name."""
        archive, folder = out / _INCOMING / f"{self.uid}.zip", out / _INCOMING / self.uid
        require_space(out, 2 * self.size)
        arrival = download(connection, Remote(self.url), archive, largest_bytes=largest_bytes, progress=progress)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(parents=True)
            listing = _unpack(archive, folder, uid=self.uid, images=self.images, largest_bytes=largest_bytes)
            size = sum(file.stat().st_size for file in folder.iterdir())
            write_whole(out / self.listed_in, listing)
            target = out / self.path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            folder.replace(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            archive.unlink(missing_ok=True)
        return self._describe(out, size, self.images), arrival.restarts


def plan_collection(
    connection: Connection, base_url: str, selection: Selection, *, collection: str, modality: str = "MR"
) -> Plan:
    """List a collection's series.

    Raises
    ------
    NotFound
        Where NBIA lists none: the collection is not there in the open, or its name is another.
    """
    base = base_url.rstrip("/")
    url = str(httpx.URL(f"{base}/getSeries", params={"Collection": collection, "Modality": modality, "format": "json"}))
    answer = connection.ask(url)
    rows = read_rows(answer.value, SeriesRow, url)
    if not rows:
        raise NotFound(
            "the archive lists no open series of this collection",
            step="fetch",
            field="Collection",
            expected=f"series of modality {modality}",
            got=collection,
            remedy="collections that show faces have moved to controlled access: see the collection's page at "
            "https://www.cancerimagingarchive.net",
        )
    patients = selection.of([row.patient for row in rows])
    units: dict[str, Series] = {}
    empty = 0
    for row in rows:
        if row.patient in patients and row.images:
            path = safe_path(row.patient, row.study, row.series)
            address = httpx.URL(f"{base}/getImageWithMD5Hash", params={"SeriesInstanceUID": row.series})
            units[row.series] = Series(path, str(address), row.series, row.size or 0, row.images)
        empty += row.images == 0
    return Plan(
        units=tuple(sorted(units.values(), key=lambda unit: unit.path)),
        asked=answer.date,
        counted={
            "patients": len(patients),
            "patients_listed": len({row.patient for row in rows}),
            "series": len(units),
            "series_listed": len({row.series for row in rows}),
            "series_without_images": empty,
        }
        | {f"licence: {name}": sum(row.licence == name for row in rows) for name in {r.licence for r in rows} if name},
    )


def _unpack(archive: Path, folder: Path, *, uid: str, images: int, largest_bytes: int | None) -> bytes:
    """Write an archive's images to a folder, each with the checksum that the archive lists, and return that list."""
    try:
        with open_archive(archive) as content:
            members = _members(content, uid)
            if _LIST not in members:
                raise _broken("the archive has no list of checksums", uid, expected=_LIST)
            total = sum(member.file_size for member in members.values())
            if largest_bytes is not None and total > largest_bytes:
                raise TooLarge(
                    "the unpacked series is larger than allowed",
                    step="fetch",
                    field=f"series {uid}",
                    expected=f"at most {largest_bytes} bytes",
                    got=f"{total} bytes",
                )
            require_space(folder, total)
            if members[_LIST].file_size > _LARGEST_LIST:
                raise _broken("the list of checksums is too long", uid, got=f"{members[_LIST].file_size} bytes")
            listing = content.read(members[_LIST])
            stated = _read_checksums(listing, uid)
            found = {name for name in members if name.lower().endswith(".dcm")}
            if found != set(stated) or len(stated) != images:
                raise _broken(
                    "the archive does not hold the images that it should",
                    uid,
                    expected=f"{images} images, {len(stated)} of them with a checksum",
                    got=f"{len(found)} images",
                )
            for name, md5 in sorted(stated.items()):
                if _write_member(content, members[name], folder / name) != md5:
                    raise ChangedFile(
                        "an image does not have the checksum that its publisher states",
                        step="fetch",
                        field=f"series {uid}: {name}",
                        expected=md5,
                        remedy="nothing of the series was kept; run the same command again",
                    )
            return listing
    except DAMAGED as error:
        raise _broken("the archive cannot be read", uid, expected="a ZIP archive", got=str(error)) from error


def _members(content: zipfile.ZipFile, uid: str) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for member in content.infolist():
        name = member.filename
        if PurePosixPath(name).name != name or "\\" in name or ":" in name or name.startswith("."):
            raise InvalidKey(
                "an archive's member would land outside its folder",
                step="fetch",
                field=f"series {uid}",
                expected="plain file names",
                got=repr(name),
                remedy="nothing of the series was kept; tell the publisher",
            )
        if name in members:
            raise _broken("the archive holds two files of one name", uid, got=name)
        members[name] = member
    return members


def _write_member(content: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with content.open(member) as source, target.open("wb") as file:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def _read_checksums(listing: bytes, uid: str) -> dict[str, str]:
    """Return the MD5 by file name that ``md5hashes.csv`` states."""
    rows = list(csv.reader(io.StringIO(listing.decode("utf-8-sig", errors="replace"))))
    stated: dict[str, str] = {}
    for row in rows[1:]:
        if not row:
            continue
        name, md5 = (row[0].strip(), row[1].strip().lower()) if len(row) > 1 else ("", "")
        if not re.fullmatch(r"[0-9a-f]{32}", md5) or name in stated:
            raise _broken("the list of checksums cannot be read", uid, expected="Filename,MD5Hash", got=",".join(row))
        stated[name] = md5
    return stated


def _broken(detail: str, uid: str, *, expected: str | None = None, got: str | None = None) -> GliaflowError:
    return UnreadableFile(
        detail,
        step="fetch",
        field=f"series {uid}",
        expected=expected,
        got=got,
        remedy="nothing of the series was kept; run the same command again",
    )
