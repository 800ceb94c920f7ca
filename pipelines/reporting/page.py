"""Pages from templates: one look, self-contained, without a script."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined


def render_page(template: str, **values: object) -> str:
    """Return a page from a template beside this module, which is also given the style sheet as ``css``.

    Parameters
    ----------
    template
        File name. ``parts.html`` holds what templates share.
    values
        What the template speaks of; a name that is missing is an error.
    """
    environment = Environment(
        loader=PackageLoader("pipelines.reporting", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    css = (files("pipelines.reporting") / "report.css").read_text("utf-8")
    return environment.get_template(template).render(css=css, **values) + "\n"
