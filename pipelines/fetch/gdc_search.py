"""Questions to the Genomic Data Commons: filters, and the answer page by page in a fixed order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from pipelines.fetch.connection import Connection, shown
from pipelines.fetch.plan import read_rows
from services.shared.errors import NotFound, Unavailable

_PAGE = 500


class _Lenient(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Pagination(_Lenient):
    total: int = Field(ge=0)


class _Data(_Lenient):
    hits: list[dict[str, object]]
    pagination: _Pagination


class _Reply(_Lenient):
    data: _Data


def all_of(**values: str | Sequence[str]) -> dict[str, object]:
    """Return a GDC filter: every field (``__`` for the dots of its name) has one of its values.

    >>> all_of(files__access="open")["content"][0]["content"]
    {'field': 'files.access', 'value': ['open']}
    """
    return {
        "op": "and",
        "content": [
            {
                "op": "in",
                "content": {
                    "field": name.replace("__", "."),
                    "value": [value] if isinstance(value, str) else list(value),
                },
            }
            for name, value in values.items()
        ],
    }


def search(connection: Connection, url: str, question: Mapping[str, object]) -> tuple[list[dict[str, object]], str]:
    """Return the hits of every page, and when the first was given."""
    hits: list[dict[str, object]] = []
    asked, total = "", None
    while total is None or len(hits) < total:
        answer = connection.ask(url, body={**question, "size": _PAGE, "from": len(hits)})
        (reply,) = read_rows([answer.value], _Reply, url)
        asked = asked or answer.date
        page = reply.data.hits
        if (total is not None and reply.data.pagination.total != total) or (
            not page and len(hits) < reply.data.pagination.total
        ):
            raise Unavailable(
                "the publisher's list changed while it was read",
                step="fetch",
                field=shown(url),
                expected=f"{total} entries",
                got=f"{reply.data.pagination.total}",
                remedy="run the same command again",
            )
        total = reply.data.pagination.total
        hits += page
    return hits, asked


def nothing_open(projects: Sequence[str]) -> NotFound:
    """Return the error of an empty answer."""
    return NotFound(
        "the GDC lists nothing open for these projects",
        step="fetch",
        field="project",
        got=", ".join(projects),
        remedy="see https://portal.gdc.cancer.gov for what there is",
    )
