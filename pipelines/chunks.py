"""A chunk of cases that a job elsewhere computes: written to storage, computed there, its outcomes read back.

Only the flow that wrote the chunk keeps the ledger: jobs that finish together would overwrite each other's entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pydantic import BaseModel, ValidationError

from pipelines.clients import endpoint_contracts, service_class
from pipelines.ledger import Step
from pipelines.outcomes import CaseOutcome
from pipelines.runners import local_runner, treat_case
from services.shared.contracts import CaseRef, Contract
from services.shared.errors import InvalidValue
from services.shared.manifest import fingerprint
from services.shared.settings import ServiceName
from services.shared.storage import Storage


class Chunk(Contract):
    """Cases of one step, and what one endpoint is asked for each, as JSON."""

    step: Step
    service: ServiceName
    endpoint: str
    cases: tuple[CaseRef, ...]
    requests: tuple[str, ...]


def make_chunk(
    step: Step, call: tuple[ServiceName, str], cases: Sequence[CaseRef], requests: Sequence[BaseModel]
) -> Chunk:
    """Return the chunk of some cases and their requests, in the same order."""
    return Chunk(
        step=step,
        service=call[0],
        endpoint=call[1],
        cases=tuple(cases),
        requests=tuple(request.model_dump_json() for request in requests),
    )


def write_chunk(storage: Storage, chunk: Chunk) -> str:
    """Write a chunk without outcomes and return its key; the same cases and requests have the same key."""
    key = f"jobs/{chunk.step}/{fingerprint(chunk.model_dump(mode='json'))[:16]}.json"
    storage.remove(_outcomes_key(key))
    storage.write_text(key, chunk.model_dump_json())
    return key


def treat_chunk(storage: Storage, key: str) -> list[CaseOutcome]:
    """Compute the cases of a chunk with the workers of this machine, and write their outcomes beside it.

    Raises
    ------
    NotFound
        Where there is no such chunk.
    InvalidValue
        Where it was written by another version.
    """
    text = storage.read_bytes(key)
    try:
        chunk = Chunk.model_validate_json(text)
        request_type, _ = endpoint_contracts(service_class(chunk.service))[chunk.endpoint]
        requests = [request_type.model_validate_json(request) for request in chunk.requests]
    except (ValidationError, KeyError) as error:
        raise InvalidValue(
            "the chunk of cases cannot be read",
            field=key,
            expected="what this version writes",
            got=type(error).__name__,
            remedy="run the same version of gliaflow in the jobs as in the flow",
        ) from error
    call, runner = (chunk.service, chunk.endpoint), local_runner(chunk.service)
    with ThreadPoolExecutor(runner.slots) as threads:
        outcomes = list(
            threads.map(
                lambda case, request: treat_case(runner, case, chunk.step, call, request), chunk.cases, requests
            )
        )
    lines = (outcome.model_dump_json() + "\n" for outcome in outcomes)
    storage.write_text(_outcomes_key(key), "".join(lines))
    return outcomes


def take_outcomes(storage: Storage, key: str) -> list[CaseOutcome] | None:
    """Return a chunk's outcomes and remove the chunk; None where it was not computed to the end."""
    outcomes_key = _outcomes_key(key)
    found = None
    if storage.exists(outcomes_key):
        found = [CaseOutcome.model_validate_json(line) for line in storage.read_text(outcomes_key).splitlines()]
    for written in (outcomes_key, key):
        storage.remove(written)
    return found


def _outcomes_key(key: str) -> str:
    return key.removesuffix(".json") + "_outcomes.jsonl"
