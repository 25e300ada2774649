"""Triton's metrics endpoint as numbers."""

import re
import urllib.request

LINE = re.compile(r"^(?P<name>\w+)\{(?P<labels>[^}]*)\} (?P<value>\S+)$", re.MULTILINE)


def read(url: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return every sample of the endpoint by name and labels."""
    text = urllib.request.urlopen(url, timeout=5).read().decode()
    return {
        (found["name"], frozenset(re.findall(r'(\w+)="([^"]*)"', found["labels"]))): float(found["value"])
        for found in LINE.finditer(text)
    }


def value(url: str, name: str, **labels: str) -> float:
    """Return the one sample of tritonyard_NAME whose labels hold `labels`."""
    found = [
        number
        for (metric, pairs), number in read(url).items()
        if metric == f"tritonyard_{name}" and labels.items() <= dict(pairs).items()
    ]
    assert len(found) == 1, f"{name} {labels}: {found}"
    return found[0]
