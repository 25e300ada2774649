"""A verdict as JUnit XML, as Jenkins, GitLab and GitHub's reporters read it: a test case an objective. Pure.

A broken limit is a failure; what could not be proved is skipped, and its message says what is missing. The first case
stands for the run itself: when it cannot be judged, as when the generator was late, it is the only one, and skipped.
"""

from xml.etree import ElementTree

from loadtests.judging.measure import Outcome
from loadtests.judging.verdict import Verdict

RUN = "the run can be judged"


def to_xml(verdict: Verdict) -> str:
    """Return the XML document."""
    cases = [(RUN, Outcome.INCONCLUSIVE if verdict.vetoes else Outcome.PASS, "; ".join(verdict.vetoes))]
    if not verdict.vetoes:
        # Named without its limit, a case keeps its history in CI when the limit moves.
        cases += [(each.label, each.outcome, each.sentence) for each in verdict.measures if each.outcome]
    outcomes = [outcome for _, outcome, _ in cases]
    counts = {
        "tests": str(len(cases)),
        "failures": str(outcomes.count(Outcome.FAIL)),
        "errors": "0",
        "skipped": str(outcomes.count(Outcome.INCONCLUSIVE)),
    }
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": f"loadtest.{verdict.name}", **counts})
    for name, outcome, sentence in cases:
        _case(suite, name, outcome, sentence)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _case(suite: ElementTree.Element, name: str, outcome: Outcome, sentence: str) -> None:
    case = ElementTree.SubElement(suite, "testcase", {"classname": suite.get("name", ""), "name": name, "time": "0"})
    if outcome is Outcome.FAIL:
        ElementTree.SubElement(case, "failure", {"type": "SLA", "message": sentence}).text = sentence
    elif outcome is Outcome.INCONCLUSIVE:
        ElementTree.SubElement(case, "skipped", {"message": f"INCONCLUSIVE: {sentence}"})
