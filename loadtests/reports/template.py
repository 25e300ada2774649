"""The HTML pages' templates, *.html.j2 in this folder, filled in. Needs jinja2."""

from pathlib import Path


def render(name: str, **values: object) -> str:
    """Return the template called `name` with `values` in it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # What a server said and what a scenario holds is foreign text: everything but our own SVG is escaped.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(values)
