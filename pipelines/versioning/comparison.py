"""A model that was made again beside the one that was kept: byte for byte, or what differs."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from services.shared.errors import UnreadableFile

Arrays = dict[str, npt.NDArray[np.generic]]


def compare_files(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> tuple[str, ...]:
    """Return what differs between two folders' files, a line each; nothing where every byte is the same.

    JSON is told field by field and arrays by their largest relative difference.
    """
    lines: list[str] = []
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if old is None or new is None:
            lines.append(f"{name}: {'was not there' if old is None else 'was not made again'}")
        elif name.endswith(".json"):
            lines += [f"{name}: {line}" for line in _json_differences(json.loads(old), json.loads(new))]
        elif name.endswith(".npz"):
            lines += [f"{name}: {line}" for line in _array_differences(read_arrays(old, name), read_arrays(new, name))]
        else:
            lines.append(f"{name}: other bytes")
    return tuple(lines)


def read_arrays(content: bytes, name: str) -> Arrays:
    """Return the arrays of an ``.npz`` file by name.

    Raises
    ------
    UnreadableFile
        Where it is none.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (ValueError, OSError) as error:
        raise UnreadableFile(
            "the arrays cannot be read", field=name, expected="arrays in .npz", got=str(error)
        ) from None


def largest_difference(before: npt.NDArray[np.generic], after: npt.NDArray[np.generic]) -> float:
    """Return the largest difference of two arrays of one shape, relative to the first's root mean square.

    A value near zero would make a harmless difference look large, so differences are measured against the array's size.
    """
    old, new = before.astype(np.float64), after.astype(np.float64)
    if old.size == 0:
        return 0.0
    size = float(np.sqrt(np.mean(old**2)))
    apart = float(np.max(np.abs(new - old)))
    return apart if size == 0 else apart / size


def _json_differences(before: object, after: object, place: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}):
            yield from _json_differences(before.get(key), after.get(key), f"{place}.{key}" if place else key)
    elif before != after:
        yield f"{place} {_short(before)} → {_short(after)}"


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _array_differences(before: Arrays, after: Arrays) -> Iterator[str]:
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old is None or new is None or old.shape != new.shape:
            shapes = [None if values is None else values.shape for values in (old, new)]
            yield f"{name}: shape {shapes[0]} → {shapes[1]}"
        elif not np.array_equal(old, new):
            yield f"{name}: relative difference up to {largest_difference(old, new):.2g}"
