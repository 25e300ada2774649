"""Recorded traces in the two published forms, and what is wrong with others."""

import pytest

from loadtests.traffic.trace import TraceError, TraceRequest, read_trace

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:47.6805900,5,6
"""
MOONCAKE = """{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}
{"timestamp": 30535, "input_length": 6472, "output_length": 26, "hash_ids": [46, 2353]}
"""


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_an_azure_trace_is_read_from_its_first_request_on(tmp_path):
    read = read_trace(written(tmp_path, "azure.csv", AZURE))
    assert [(row.tokens_in, row.tokens_out) for row in read] == [(374, 44), (5, 6), (396, 109)]
    assert [row.at_s for row in read] == pytest.approx([0, 1, 4.314579], abs=1e-5)


def test_an_azure_trace_with_a_zone_is_read(tmp_path):
    text = AZURE.replace(",374", "+00:00,374").replace(",396", "+00:00,396").replace(",5,", "+00:00,5,")
    assert read_trace(written(tmp_path, "zone.csv", text)) == read_trace(written(tmp_path, "azure.csv", AZURE))


def test_a_mooncake_trace_is_read_from_its_first_request_on(tmp_path):
    first, second = read_trace(written(tmp_path, "mooncake.jsonl", MOONCAKE))
    assert first == TraceRequest(0, 6955, 52)
    assert (second.at_s, second.tokens_in, second.tokens_out) == (pytest.approx(3.053), 6472, 26)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("trace.txt", "", "is neither .csv nor .jsonl"),
        ("empty.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n", "holds no request"),
        ("other.csv", "time,in,out\n1,2,3\n", "other.csv:2: not a request of a trace: 'TIMESTAMP' is missing"),
        ("date.csv", AZURE.replace("2023-11-16 18:15:50.9951690", "noon"), "date.csv:3: .*Invalid isoformat"),
        ("short.csv", AZURE + "2023-11-16 18:15:51,1\n", "short.csv:5: not a request"),
        ("key.jsonl", MOONCAKE + '{"timestamp": 1}\n', "key.jsonl:3: .*'input_length' is missing"),
        ("torn.jsonl", MOONCAKE + '{"timest', "torn.jsonl:3: not a request of a trace: Unterminated"),
        ("list.jsonl", "[]\n", "list.jsonl:1: not a request"),
        ("below.jsonl", MOONCAKE.replace("6472", "-1"), "below.jsonl:2: .*a length is below 0"),
    ],
)
def test_what_is_wrong_with_a_trace_is_named(tmp_path, name, text, words):
    with pytest.raises(TraceError, match=words) as raised:
        read_trace(written(tmp_path, name, text))
    assert raised.value.exit_code == 2


def test_a_missing_trace_is_named(tmp_path):
    with pytest.raises(TraceError, match=r"absent\.csv cannot be read"):
        read_trace(tmp_path / "absent.csv")
