"""Print a Job of the chart's own template that waits to be told what to run; read by a worker's Python.

Argument: the job's role, ``job`` or ``promoter``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from prefect.utilities.templating import apply_values

template = json.loads(Path("/etc/gliaflow/base-job-template.json").read_text())
values = {name: entry["default"] for name, entry in template["variables"]["properties"].items() if "default" in entry}
# The first process of a container hears no signal that it does not ask for.
values |= {"name": "check", "role": sys.argv[1], "command": ["sh", "-c", "trap exit TERM; sleep infinity & wait"]}
json.dump(apply_values(template["job_configuration"]["job_manifest"], values), sys.stdout)
