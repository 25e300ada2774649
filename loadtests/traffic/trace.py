"""A recorded trace of requests: when each came and how long it was. Reads files, draws nothing.

Two published forms are read, told apart by the file's suffix:

    .csv     TIMESTAMP,ContextTokens,GeneratedTokens with ISO timestamps: the Azure LLM inference traces
             (Patel et al., Splitwise, ISCA 2024)
    .jsonl   {"timestamp": milliseconds, "input_length": tokens, "output_length": tokens}: the Mooncake traces
             (Qin et al., FAST 2025); other keys, their hash_ids among them, are passed over
"""

import csv
import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ensembles.errors import YardError


class TraceError(YardError):
    """A recorded trace cannot be read."""

    exit_code = 2


@dataclass(frozen=True)
class TraceRequest:
    """One recorded request: seconds after the first one, tokens of its prompt, tokens of its answer."""

    at_s: float
    tokens_in: int
    tokens_out: int


@functools.cache
def read_trace(path: Path) -> tuple[TraceRequest, ...]:
    """Return the requests of the trace at `path`, ascending; the first one is at 0 s.

    Raises TraceError: the file cannot be read, is of neither form, or a line of it is no request.
    """
    kind = _KINDS.get(path.suffix)
    if kind is None:
        raise TraceError(f"trace {path} is neither .csv nor .jsonl; give it the suffix of its form")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"trace {path} cannot be read: {error}") from None
    rows = sorted(_rows(path, kind(lines)), key=lambda row: row.at_s)
    if not rows:
        raise TraceError(f"trace {path} holds no request; give it a line a request")
    return tuple(TraceRequest(row.at_s - rows[0].at_s, row.tokens_in, row.tokens_out) for row in rows)


Lines = Iterator[tuple[int, Callable[[], TraceRequest]]]


def _rows(path: Path, lines: Lines) -> Iterator[TraceRequest]:
    for number, parse in lines:
        try:
            row = parse()
            if min(row.tokens_in, row.tokens_out) < 0:
                raise ValueError("a length is below 0")
        except (KeyError, TypeError, ValueError) as error:
            fact = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise TraceError(f"{path}:{number}: not a request of a trace: {fact}; mend or remove the line") from None
        yield row


def _csv(lines: list[str]) -> Lines:
    reader = csv.DictReader(lines)
    for row in reader:
        yield reader.line_num, functools.partial(_azure, row)


def _azure(row: dict[str, str]) -> TraceRequest:
    # Only differences count, so a timestamp without a zone may be taken for UTC.
    at = datetime.fromisoformat(row["TIMESTAMP"]).replace(tzinfo=UTC)
    return TraceRequest(at.timestamp(), int(row["ContextTokens"]), int(row["GeneratedTokens"]))


def _jsonl(lines: list[str]) -> Lines:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, functools.partial(_mooncake, line)


def _mooncake(line: str) -> TraceRequest:
    row = json.loads(line)
    return TraceRequest(row["timestamp"] / 1000, int(row["input_length"]), int(row["output_length"]))


_KINDS = {".csv": _csv, ".jsonl": _jsonl}
