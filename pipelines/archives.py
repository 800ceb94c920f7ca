"""ZIP archives that others made: what cannot be read is one kind of error, so that no fault of ours passes for it."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError)
"""What an archive's content can raise within :func:`open_archive`."""

_ENCRYPTED_OR_PATCHED = 0x1 | 0x20 | 0x40
_READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a ZIP whose members are stored or deflated, and not encrypted.

    Raises
    ------
    zipfile.BadZipFile
        Where it is none, or a member is packed in a way that is not read.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (NotImplementedError, ValueError) as error:  # a version, or a place in the file, that cannot be
        raise zipfile.BadZipFile(str(error)) from error
    with archive:
        for member in archive.infolist():
            if member.flag_bits & _ENCRYPTED_OR_PATCHED:
                raise zipfile.BadZipFile(f"{member.filename} is encrypted")
            if member.compress_type not in _READABLE or member.header_offset < 0:
                raise zipfile.BadZipFile(f"{member.filename} is packed in a way that is not read")
        yield archive
