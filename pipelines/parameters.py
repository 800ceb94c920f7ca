"""``params.yaml``: one section a stage, read into the stage's own parameters."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from services.shared.errors import InvalidValue, NotFound

DEFAULT_FILE = Path("params.yaml")

Section = TypeVar("Section", bound=BaseModel)
Value = TypeVar("Value", str, int)


def read_section(path: Path | None, name: str, kind: type[Section]) -> Section:
    """Return one section of a parameter file.

    Parameters
    ----------
    path
        The file; None means ``params.yaml`` in the working folder where there is one, else every default.
    name
        The section.
    kind
        What the section holds; a field that the file leaves out has its default.

    Raises
    ------
    NotFound
        Where a named file does not exist.
    InvalidValue
        Where the file is not YAML, or a field is unknown or has a wrong value.
    """
    content = _read_file(path)
    try:
        return kind.model_validate(content.get(name) or {})
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidValue(
            f"a parameter is wrong: {first['msg']}",
            field=".".join([(path or DEFAULT_FILE).name, name, *map(str, first["loc"])]),
            expected=first["type"],
            got=repr(first["input"]),
            remedy=f"the section {name!r} takes: {', '.join(kind.model_fields)}",
        ) from error


def read_value(path: Path | None, name: str, *, default: Value) -> Value:
    """Return one value of the top level of a parameter file, or its default.

    Raises
    ------
    InvalidValue
        Where it is not of the default's type.
    """
    value = _read_file(path).get(name, default)
    if not isinstance(value, type(default)):
        raise InvalidValue(
            "a parameter is wrong",
            field=name,
            expected=type(default).__name__,
            got=f"{value!r} ({type(value).__name__})",
        )
    return value


def _read_file(path: Path | None) -> dict[str, object]:
    if path is None:
        if not DEFAULT_FILE.is_file():
            return {}
        path = DEFAULT_FILE
    if not path.is_file():
        raise NotFound("there is no such parameter file", field=str(path), remedy="name an existing file with --params")
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise InvalidValue(
            "the parameter file is not YAML", field=path.name, got=str(error).replace("\n", " ")
        ) from error
    if not isinstance(content, dict):
        raise InvalidValue("the parameter file has no sections", field=path.name, expected="a mapping", got=content)
    return content
