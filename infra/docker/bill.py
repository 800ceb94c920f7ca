"""Print the bill of materials (CycloneDX 1.6, JSON) of the machine that this runs on.

    python bill.py gliaflow/segmentation 0.1.0 > sbom.cdx.json

It lists every installed Python distribution and every Debian package, sorted, without a time or a random number: the
same image gives the same bill.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path
from urllib.parse import quote

_STATUS = Path("/var/lib/dpkg/status")


def python_component(package: Distribution) -> dict[str, object]:
    """Return the component of an installed Python distribution."""
    about = package.metadata
    name = re.sub(r"[-_.]+", "-", about["Name"]).lower()
    version = package.version
    made: dict[str, object] = {
        "type": "library",
        "bom-ref": f"pkg:pypi/{name}@{quote(version)}",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name}@{quote(version)}",
    }
    expression = about.get("License-Expression")
    text = (about.get("License") or "").strip().partition("\n")[0]
    if expression:
        made["licenses"] = [{"expression": expression}]
    elif text:
        made["licenses"] = [{"license": {"name": text[:120]}}]
    return made


def debian_components(status: str) -> list[dict[str, object]]:
    """Return the components of the packages that dpkg's status file names as installed."""
    found = []
    for block in status.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", block, re.MULTILINE))
        if not fields.get("Status", "").endswith(" installed"):
            continue
        name, version = fields["Package"], fields["Version"]
        purl = f"pkg:deb/debian/{name}@{quote(version, safe='')}?arch={fields['Architecture']}"
        found.append({"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl})
    return found


def bill_of_materials(name: str, version: str) -> dict[str, object]:
    """Return what is installed on this machine as a CycloneDX document about an image."""
    packages = {entry["bom-ref"]: entry for entry in map(python_component, distributions())}
    system = debian_components(_STATUS.read_text()) if _STATUS.exists() else []
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "bom-ref": name, "name": name, "version": version}},
        "components": [
            *(packages[ref] for ref in sorted(map(str, packages))),
            *sorted(system, key=lambda entry: str(entry["bom-ref"])),
        ],
    }


if __name__ == "__main__":
    json.dump(bill_of_materials(*sys.argv[1:3]), sys.stdout, indent=1)
