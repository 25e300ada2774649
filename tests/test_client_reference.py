"""The page clients/REFERENCE.md is what the docstrings say now, and they say it of everything that is exported."""

import dataclasses
import inspect
import re
import runpy
from typing import is_typeddict

import pytest

import tritonyard
from yard.checkout import ROOT

REFERENCE = runpy.run_path(str(ROOT / "clients" / "reference.py"))
PAGE, SECTIONS, public = REFERENCE["PAGE"], REFERENCE["SECTIONS"], REFERENCE["public"]
CLASSES = {name: getattr(tritonyard, name) for name in tritonyard.__all__}
FIELDS = {
    name: [field.name for field in dataclasses.fields(kind)]
    if dataclasses.is_dataclass(kind)
    else list(kind.__annotations__)
    for name, kind in CLASSES.items()
    if dataclasses.is_dataclass(kind) or is_typeddict(kind)
}
MEMBERS = {f"{name}.{member}": getattr(kind, member) for name, kind in CLASSES.items() for member in public(name, kind)}
METHODS = {path: found for path, found in MEMBERS.items() if inspect.isfunction(found)}


def doc(path):
    """The docstring of a method, and those that it refers to."""
    own = inspect.getdoc(MEMBERS[path])
    return "\n\n".join([own, *(doc(other) for other in re.findall(r"`(Client\.\w+)`", own) if other != path)])


def test_the_page_is_what_the_docstrings_say_now():
    assert PAGE.read_text() == REFERENCE["page"](), "run make reference, and commit the page"


def test_every_exported_name_is_on_the_page_once():
    assert sorted(name for names in SECTIONS.values() for name in names) == sorted(tritonyard.__all__)
    headings = re.findall(r"^###+ (\S+)$", PAGE.read_text(), re.MULTILINE)
    assert sorted(headings) == sorted([*CLASSES, *METHODS])


def test_every_link_of_the_page_leads_somewhere():
    page = PAGE.read_text()
    headings = {re.sub(r"\W", "", heading).lower() for heading in re.findall(r"^#+ (.*)$", page, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]*)\)", page)) <= headings
    for path in re.findall(r"\]\(([^#)]+)\)", page):
        assert (PAGE.parent / path).exists()


@pytest.mark.parametrize("path", [*CLASSES, *MEMBERS])
def test_everything_has_a_docstring_that_begins_with_a_sentence(path):
    found = MEMBERS.get(path, CLASSES.get(path))
    assert inspect.getdoc(found).partition("\n\n")[0].rstrip().endswith((".", ":"))


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_explained(name):
    assert [field for field in FIELDS[name] if f"`{field}`" not in inspect.getdoc(CLASSES[name])] == []


@pytest.mark.parametrize("path", METHODS)
def test_every_parameter_is_explained(path):
    parameters = [name for name in inspect.signature(METHODS[path]).parameters if name not in ("self", "arrays")]
    words = doc(path) + inspect.getdoc(CLASSES[path.split(".")[0]]) + inspect.getdoc(tritonyard.Options)
    assert [name for name in parameters if f"`{name}" not in words] == []
    assert "timeout" not in parameters or "seconds" in words


@pytest.mark.parametrize("name", ["Client", "AsyncClient"])
def test_every_parameter_of_a_client_is_explained(name):
    words = inspect.getdoc(CLASSES[name]) + inspect.getdoc(tritonyard.Client)
    assert [each for each in inspect.signature(CLASSES[name]).parameters if f"`{each}`" not in words] == []


def test_every_attribute_of_an_error_is_explained():
    attributes = vars(tritonyard.TritonyardError("a fact"))
    assert [name for name in attributes if f"`{name}`" not in inspect.getdoc(tritonyard.TritonyardError)] == []


@pytest.mark.parametrize("path", [path for path in METHODS if "Client." in path and not path.endswith("close")])
def test_every_call_names_its_errors(path):
    raised = re.findall(r"^Raises (.*?)(?:\n\n|\Z)", doc(path), re.MULTILINE | re.DOTALL)
    assert raised
    named = re.findall(r"\b[A-Z][a-z]+[A-Z]\w+", " ".join(raised))
    assert named
    assert [name for name in named if not issubclass(CLASSES[name], tritonyard.TritonyardError)] == []
