"""`yard ask` against a fake server: what is asked, what is printed where, and Ctrl-C."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_kserve import Fault, fake_grpc, said

from ensembles.errors import YardError
from yard.ask import ask, show

YARD = Path(sys.executable).parent / "yard"


@pytest.fixture
def fake():
    with fake_grpc() as fake:
        fake.write = lambda inputs: iter([said("", count=0), said("Par", count=1), said("is.", "length", 2)])
        yield fake


def run(fake, *arguments):
    return CliRunner().invoke(ask, ["--url", fake.url, "--model", "minilm", *arguments])


@pytest.mark.parametrize(
    ("arguments", "inputs"),
    [
        (["hi"], {"messages": ['[{"role": "user", "content": "hi"}]'], "max_tokens": [256]}),
        (
            ["hi", "--system", "be brief", "--max-tokens", "7"],
            {
                "messages": ['[{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]'],
                "max_tokens": [7],
            },
        ),
        (
            ["hi", "--raw", "--temperature", "0.5", "--top-p", "0.25", "--top-k", "4", "--seed", "9"],
            {
                "text_input": ["hi"],
                "max_tokens": [256],
                "temperature": [0.5],
                "top_p": [0.25],
                "top_k": [4],
                "seed": [9],
            },
        ),
    ],
)
def test_what_is_asked_and_printed(fake, arguments, inputs):
    result = run(fake, *arguments)
    assert result.exit_code == 0, result.output
    assert fake.generations == [{**inputs, "stream": [True]}]
    assert result.stdout == "Paris.\n"
    assert result.stderr.startswith("3 tokens in, 2 out at ")
    assert result.stderr.endswith(" s; length\n")


def test_show_asks_in_chat(fake, capsys):
    show(fake.url, "minilm", "hi", 5)
    assert fake.generations[0]["max_tokens"] == [5]
    assert capsys.readouterr().out == "Paris.\n"


def test_raw_sends_no_system_message(fake):
    result = run(fake, "hi", "--raw", "--system", "be brief")
    assert result.exit_code == 2
    assert "drop one of them" in result.stderr
    assert fake.generations == []


def test_an_error_in_the_middle_is_a_sentence_on_its_own_line(fake):
    def write(inputs):
        yield said("Par")
        raise Fault("INTERNAL", 500, "boom")

    fake.write = write
    result = run(fake, "hi")
    assert isinstance(result.exception, YardError)
    assert "boom" in str(result.exception)
    assert result.stdout == "Par\n"


def test_ctrl_c_cancels_and_exits_130(fake):
    def write(inputs):
        for count in range(1000):
            yield said("x", count=count)
            time.sleep(0.01)

    fake.write = write
    command = [YARD, "ask", "--url", fake.url, "--model", "minilm", "hi"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.read(5) == "xxxxx"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert fake.cancelled.wait(2)
