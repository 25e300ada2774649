"""The SDK's examples are run as a user runs them, and the code of its README, against the real server."""

import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from tls_front import make_certificates

import tritonyard
from yard.checkout import ROOT

EXAMPLES = ROOT / "clients" / "examples"
README = (ROOT / "clients" / "README.md").read_text()
LINES = ["How do I reset my password?", "I forgot my login.", "The weather is fine.", "Stock prices fell."]

# An example -> what follows the server's address, what is typed, what it prints.
RUNS = {
    "embed_file": (["lines.txt"], "", r"lines\.npy: float32 \(4, 384\)\n"),
    "search": (
        ["lines.txt", "How do I log in again?"],
        "",
        r"0\.\d\d  (How|I f).*\n0\.\d\d  (How|I f).*\n-?0\.\d\d  .*\n",
    ),
    "chat": ([], "Say yes.\nAnd no?\n", r"(> \S.*\n\[\d+ tokens; (stop|length)\]\n){2}> "),
    "guided": (
        ["Ann, 34, lives in Leeds."],
        "",
        r"name: '.{0,20}'\nage: \d+\ntown: '(Leeds|Lyon|Lima|elsewhere)'\nleast sure of '.+'\n",
    ),
    "many_streams": (
        ["What is rain?", "What is iron?"],
        "",
        r".+\|\nWhat is rain\? .+first_token=0\.\d.*\nWhat is iron\? .+first_token=0\.\d.*",
    ),
    "any_model": (
        ["a cat", "on a mat"],
        "",
        r"tokens: \[4, 5\]\n.*'input_ids' wants INT64 \[batch, -1\], and got an array of int32.*"
        r"last_hidden_state: float32 \(2, 8, 384\)\n",
    ),
    "retries": (
        ["grpc://127.0.0.1:1"],
        "",
        r"  address_up: .*\n  address_down: attempt 0 at grpc://127\.0\.0\.1:1\n.*"
        r"text 2: \(1, 384\)\n.*\[\[ +101 .* 102 .*\]\]\n",
    ),
    "tracing": (
        ["Why?"],
        "",
        r"  ModelStreamInfer smollm2: server\.address='127\.0\.0\.1', .*\nchat smollm2: .*output_tokens=16, .*\n.+\n",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    (folder / "lines.txt").write_text("\n".join(LINES) + "\n")
    return folder


def command(name, *arguments):
    return [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]


def test_every_example_is_run_and_short():
    files = {path.stem: path.read_text() for path in EXAMPLES.glob("*.py")}
    assert files.keys() == RUNS.keys() | {"test_search"}
    assert [name for name, text in files.items() if len(text.splitlines()) >= 40] == []


@pytest.mark.server
@pytest.mark.parametrize("name", RUNS)
def test_an_example_says_what_it_should(server, folder, name):
    # One reads what another has written.
    for each in ["embed_file", name] if name == "search" else [name]:
        arguments, typed, said = RUNS[each]
        argv = command(each, server.grpc_url, *arguments)
        done = subprocess.run(argv, input=typed, cwd=folder, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert re.fullmatch(said, done.stdout, re.DOTALL), done.stdout


@pytest.mark.server
def test_ctrl_c_ends_an_answer_and_not_the_talk(server):
    with subprocess.Popen(
        command("chat", server.http_url), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as talk:
        talk.stdin.write(b"Tell me a long story.\n")
        talk.stdin.flush()
        said = talk.stdout.read(20)
        talk.send_signal(signal.SIGINT)
        rest, errors = talk.communicate(b"Say yes.\n", timeout=30)
    assert (talk.returncode, errors) == (0, b"")
    cut, whole = rb"> .*\n\[\d+ tokens; cut short\]\n", rb"> .*\n\[\d+ tokens; (stop|length)\]\n> "
    assert re.fullmatch(cut + whole, said + rest, re.DOTALL), rest


@pytest.mark.server
def test_tests_of_an_example_pass_without_a_server(folder):
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLES / "test_search.py")]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    assert "2 passed" in done.stdout, done.stdout


# What is marked must be an error: a strict mypy refuses marks that are not needed.
TYPED = """
from tritonyard import AsyncClient, Client, Options


async def later() -> str:
    return ""


AsyncClient(token=later)
Client(token=lambda: "")
Client(token=later)  # type: ignore[arg-type]
options: Options = {"n": 2, "json_schema": {"const": [1]}, "logit_bias": {7: -1}}
Client().generate("a", **options).choices[1].text.upper()
Client().generate("a", n="2")  # type: ignore[call-overload]
"""


@pytest.mark.server
def test_examples_satisfy_a_strict_type_checker(tmp_path):
    """What a caller's own mypy makes of the exported types."""
    (tmp_path / "typed.py").write_text(TYPED)
    files = sorted(map(str, [*EXAMPLES.glob("*.py"), tmp_path / "typed.py"]))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", *files], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.server
@pytest.mark.parametrize("code", BLOCKS, ids=[code.strip().splitlines()[-1].strip()[:40] for code in BLOCKS])
def test_the_code_of_the_readme_runs(server, tmp_path, monkeypatch, code):
    if "me.pem" in code:
        certificates = make_certificates(tmp_path)
        certificates.pem("caller").rename(tmp_path / "me.pem")
        certificates.key("caller").rename(tmp_path / "me.key")
    monkeypatch.chdir(tmp_path)
    aimed = code.replace("grpc://127.0.0.1:8001", server.grpc_url).replace("http://127.0.0.1:8000", server.http_url)
    # What every block may go on from.
    names = {"Client": tritonyard.Client, "vault": SimpleNamespace(read=lambda name: "secret")}
    exec(aimed, names)
    if isinstance(names.get("client"), tritonyard.Client):
        names["client"].close()
