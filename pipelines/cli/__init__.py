"""``gliaflow``: from raw MRI to fitted, evaluated, served and reported models."""

from __future__ import annotations

import sys
from collections.abc import Callable

from pydantic import ValidationError

from pipelines.cli import cluster, data, operations, steps, studies
from pipelines.cli.app import app, print_problem
from services.shared.errors import GliaflowError, InvalidValue
from services.shared.settings import quiet_libraries

COMMANDS: dict[str, Callable[..., None]] = {
    "simulate": data.simulate,
    "fetch": data.fetch,
    "import": data.import_,
    "prepare": steps.prepare,
    "train": steps.train,
    "segment": steps.segment,
    "extract": steps.extract,
    "study": studies.study,
    "validate": studies.validate,
    "report": studies.report,
    "predict": studies.predict,
    "serve": operations.serve,
    "submit": cluster.submit,
    "treat": cluster.treat,
    "demo": operations.demo,
    "doctor": operations.doctor,
}
"""In the order of `gliaflow --help`."""

_EPILOGUES: dict[str, Callable[[], str]] = {
    "fetch": data.fetch_help,
    "import": data.releases_help,
    "study": studies.studies_help,
}

_CONTEXTS: dict[str, dict[str, object]] = {
    # What follows the step is the step's own.
    "submit": {"allow_interspersed_args": False},
}

for _name, _command in COMMANDS.items():
    app.command(_name, epilog=_EPILOGUES.get(_name, str)(), context_settings=_CONTEXTS.get(_name))(_command)


def main() -> None:
    """Run the command line; a user's mistake is one message, not a traceback."""
    quiet_libraries()
    try:
        app()
    except GliaflowError as error:
        print_problem(error)
        sys.exit(1)
    except ValidationError as error:
        first = error.errors(include_context=False)[0]
        field = ".".join(map(str, first["loc"])) or error.title
        print_problem(InvalidValue(first["msg"], field=field, expected=first["type"], got=repr(first["input"])))
        sys.exit(1)
