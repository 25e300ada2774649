"""Scenarios as users write them: what is read, what is refused and how, and what requests they give."""

import itertools
import re
from collections import Counter

import pytest
from pydantic import TypeAdapter

from ensembles.declaration import DeclarationError
from loadtests.judging import intervals
from loadtests.traffic import corpus, scenario, texts
from loadtests.traffic.arrivals import Closed
from loadtests.traffic.request import EmbedRequest, GenerateRequest, Lengths, Words
from loadtests.traffic.scenario import ScenarioError
from loadtests.traffic.texts import TextsError
from loadtests.traffic.trace import TraceError
from yard.checkout import ROOT

GOOD = {
    "arrivals": ["process = 'poisson'", "rate = 10.0", "duration_s = 5"],
    "request": ["task = 'embed'", "model = 'minilm'"],
    "sla": ["p95_ms = 250"],
}
GENERATE = GOOD | {"request": ["task = 'generate'", "model = 'smollm2'", "output_tokens = 24"]}


def written(tmp_path, good=GOOD, **changes):
    """Write a good scenario, the lines of `changes` added to its tables or put in place of its own."""
    text = ""
    for table, lines in (good | {key: [] for key in changes if key not in good}).items():
        keys = dict(line.split(" = ", 1) for line in lines) | dict(
            line.split(" = ", 1) for line in changes.get(table, [])
        )
        body = "\n".join(f"{key} = {value}" for key, value in keys.items() if value != "absent")
        text += f"[{table.replace('_', '.')}]\n{body}\n"
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", scenario.names())
def test_shipped_scenarios_are_valid_and_promise_something(name):
    loaded = scenario.load(scenario.locate(name))
    assert loaded.schedule()
    # A ramp is never twice at one load: a percentile over it is one of no load at all.
    assert loaded.sla.latency_limits_ms() or loaded.arrivals.process == "ramp"


OPEN = [name for name in scenario.names() if not isinstance(scenario.load(scenario.locate(name)).arrivals, Closed)]


@pytest.mark.parametrize("name", OPEN)
def test_shipped_scenarios_hold_enough_requests_to_pass(name):
    loaded = scenario.load(scenario.locate(name))
    judged = sum(start >= loaded.arrivals.warmup_s for start in loaded.schedule())
    alpha = 1 - loaded.sla.confidence
    for key in loaded.sla.latency_limits_ms():
        percentile = int(key.removesuffix("_ms")[-2:])
        assert intervals.samples_needed(percentile / 100, alpha) <= judged, key
    limit = loaded.sla.max_error_rate
    assert limit is None or intervals.clopper_pearson(0, judged, alpha, alpha)[1] <= limit


def test_a_scenario_is_read_with_its_defaults(tmp_path):
    loaded = scenario.load(written(tmp_path))
    assert (loaded.arrivals.warmup_s, loaded.request.texts, loaded.request.timeout_s) == (0, 1, 5)
    assert loaded.sla.latency_limits_ms() == {"p95_ms": 250}


@pytest.mark.parametrize(
    ("table", "line", "words"),
    [
        ("arrivals", "process = 'poison'", ["arrivals.process = 'poison'", "did you mean 'poisson'?"]),
        ("arrivals", "rate = 0", ["arrivals.rate = 0", "greater than 0"]),
        ("arrivals", "rate = inf", ["arrivals.rate = inf", "finite"]),
        ("arrivals", "rate = nan", ["arrivals.rate = nan", "finite"]),
        ("arrivals", "rate = '12'", ["arrivals.rate = '12'", "number"]),
        ("arrivals", "duration_s = absent", ["key 'arrivals.duration_s' is missing"]),
        ("arrivals", "warmup_s = 5", ["arrivals", "warmup_s = 5 leaves nothing of duration_s = 5"]),
        ("arrivals", "warm_up_s = 1", ["unknown key 'arrivals.warm_up_s'", "did you mean 'warmup_s'?"]),
        ("arrivals", "seed = -1", ["arrivals.seed = -1"]),
        ("sla", "ttft_p95_ms = 250", ["ttft_p95_ms can only be judged of a stream", "task = 'embed' has none"]),
        ("sla", "itl_p50_ms = 250", ["itl_p50_ms can only be judged of a stream", "task = 'embed' has none"]),
        ("sla", "min_output_tokens_per_s = 9", ["task = 'embed' puts out no tokens; use min_achieved_rate"]),
        ("request", "prompt = {}", ["unknown key 'request.prompt'; known here: model, task, texts, timeout_s, words"]),
        ("request", "task = absent", ["key 'request.task' is missing"]),
        ("request", "task = 'embedd'", ["request.task = 'embedd'", "did you mean 'embed'?"]),
        ("request", "model = ''", ["request.model = ''"]),
        ("request", "texts = 0", ["request.texts = 0"]),
        ("request", "timeout_s = -1", ["request.timeout_s = -1"]),
        ("sla", "p95_ms = absent", ["sla", "holds no objective"]),
        ("sla", "p95 = 250", ["unknown key 'sla.p95'", "did you mean 'p95_ms'?"]),
        ("sla", "max_error_rate = 0", ["sla.max_error_rate = 0", "greater than 0"]),
        ("sla", "min_achieved_rate = 1.1", ["sla.min_achieved_rate = 1.1"]),
        ("sla", "confidence = 1", ["sla.confidence = 1"]),
        ("request_words", "distribution = 'uniform'", ["request.words", "missing: max, min"]),
        ("request_words", "median = 20", ["request.words", "takes no other key", "too many: median"]),
    ],
)
def test_what_is_wrong_is_named_with_file_key_and_value(tmp_path, table, line, words):
    path = written(tmp_path, **{table: [line]})
    with pytest.raises(DeclarationError) as raised:
        scenario.load(path)
    assert raised.value.exit_code == 2
    for word in [str(path), *words]:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("table", "line", "words"),
    [
        ("request", "task = 'generrate'", ["request.task = 'generrate' is not one of embed, generate", "'generate'?"]),
        ("request", "model = absent", ["key 'request.model' is missing"]),
        ("request", "texts = 2", ["unknown key 'request.texts'; known here: model, output_tokens, prompt, stream"]),
        ("request", "promt = {}", ["unknown key 'request.promt'", "did you mean 'prompt'?"]),
        ("request", "output_token = 2", ["unknown key 'request.output_token'", "did you mean 'output_tokens'?"]),
        ("request", "output_tokens = absent", ["key 'request.output_tokens' is missing"]),
        ("request", "output_tokens = 0", ["request.output_tokens = 0", "a whole number of at least 1, or a table"]),
        ("request", "output_tokens = true", ["request.output_tokens = True", "a whole number of at least 1"]),
        ("request", "output_tokens = {min = 4}", ["key 'request.output_tokens.max' is missing"]),
        ("request", "output_tokens = {min = 4, max = 2}", ["min = 4 is above max = 2; swap them"]),
        ("request", "output_tokens = {min = 0, max = 2}", ["request.output_tokens.min = 0"]),
        ("request", "output_tokens = {min = 1, max = 2, mx = 3}", ["unknown key 'request.output_tokens.mx'", "'max'?"]),
        ("request", "system = ''", ["request.system = ''"]),
        ("request", "stream = 1", ["request.stream = 1", "boolean"]),
        ("request", "timeout_s = 0", ["request.timeout_s = 0"]),
        ("request_prompt", "distribution = 'uniform'", ["request.prompt", "missing: max, min"]),
        ("sla", "ttft_p95 = 250", ["unknown key 'sla.ttft_p95'", "did you mean 'ttft_p95_ms'?"]),
        ("sla", "itl_p95_ms = 0", ["sla.itl_p95_ms = 0", "greater than 0"]),
        ("sla", "min_output_tokens_per_s = 0", ["sla.min_output_tokens_per_s = 0"]),
    ],
)
def test_what_is_wrong_with_a_generate_scenario_is_named(tmp_path, table, line, words):
    path = written(tmp_path, GENERATE, **{table: [line]})
    with pytest.raises(DeclarationError) as raised:
        scenario.load(path)
    for word in [str(path), *words]:
        assert word in str(raised.value)


def test_limits_on_streams_need_a_stream(tmp_path):
    limits = ["ttft_p95_ms = 500", "itl_p99_ms = 90", "min_output_tokens_per_s = 30"]
    loaded = scenario.load(written(tmp_path, GENERATE, sla=limits))
    assert loaded.sla.latency_limits_ms() == {"p95_ms": 250, "ttft_p95_ms": 500, "itl_p99_ms": 90}
    with pytest.raises(DeclarationError, match=r"ttft_p95_ms, sla.itl_p99_ms can only .* request\.stream is false"):
        scenario.load(written(tmp_path, GENERATE, sla=limits, request=["stream = false"]))
    whole = written(tmp_path, GENERATE, sla=limits[2:], request=["stream = false"])
    assert scenario.load(whole).sla.min_output_tokens_per_s == 30


def test_tokens_alone_are_an_objective(tmp_path):
    path = written(tmp_path, GENERATE, sla=["p95_ms = absent", "min_output_tokens_per_s = 30"])
    assert scenario.load(path).sla.latency_limits_ms() == {}


def test_a_generate_scenario_is_read_with_its_defaults(tmp_path):
    request = scenario.load(written(tmp_path, GENERATE)).request
    assert (request.stream, request.system, request.prompt) == (True, None, Words())
    assert request.output_tokens == Lengths(min=24, max=24)


def test_swapped_bounds_of_a_distribution_are_refused(tmp_path):
    path = written(tmp_path, request_words=["distribution = 'uniform'", "min = 9", "max = 3"])
    with pytest.raises(DeclarationError, match="min = 9 is above max = 3"):
        scenario.load(path)


def test_a_schedule_without_requests_after_the_warmup_is_refused(tmp_path):
    path = written(tmp_path, arrivals=["process = 'constant'", "rate = 1", "warmup_s = 4.5"])
    with pytest.raises(ScenarioError, match=r"mine\.toml: process 'constant' .* after warmup_s = 4\.5") as raised:
        scenario.load(path)
    assert raised.value.exit_code == 2


def test_locate_finds_shipped_names_and_files(tmp_path):
    path = written(tmp_path)
    assert scenario.locate("embed_smoke") == scenario.SCENARIOS / "embed_smoke.toml"
    assert scenario.locate(str(path)) == path
    with pytest.raises(ScenarioError, match="did you mean 'embed_smoke'"):
        scenario.locate("embed_smok")


@pytest.mark.parametrize("name", scenario.names())
def test_a_scenario_survives_json(name):
    loaded = scenario.load(scenario.locate(name))
    read = TypeAdapter(scenario.Scenario).validate_json(loaded.model_dump_json(exclude_none=True))
    assert read == loaded


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["process = 'gamma'"], ["key 'arrivals.cv' is missing"]),
        (["process = 'gamma'", "cv = 0"], ["arrivals.cv = 0", "greater than or equal to 0.01"]),
        (["process = 'poisson'", "cv = 2"], ["unknown key 'arrivals.cv'; known here: duration_s, process, rate, seed"]),
        (["process = 'ramp'"], ["key 'arrivals.end_rate' is missing"]),
        (["process = 'spike'", "spike_rate = 9", "spike_start_s = 4", "spike_s = 2"], ["from 4 s to 6 s must lie"]),
        (["process = 'closed'"], ["key 'arrivals.users' is missing", "unknown key 'arrivals.rate'"]),
        (["process = 'closed'", "rate = absent", "users = 0"], ["arrivals.users = 0"]),
        (["process = 'trace'", "rate = absent"], ["key 'arrivals.file' is missing", "key 'arrivals.max_input_tokens'"]),
        (["process = 'gama'"], ["arrivals.process = 'gama' is not one of constant, poisson, gamma", "'gamma'?"]),
        (["process = absent"], ["key 'arrivals.process' is missing"]),
    ],
)
def test_every_process_has_exactly_its_own_keys(tmp_path, lines, words):
    path = written(tmp_path, arrivals=lines)
    with pytest.raises(DeclarationError) as raised:
        scenario.load(path)
    for word in [str(path), *words]:
        assert word in str(raised.value)


TRACE = ["process = 'trace'", "rate = absent", "file = 'mine.csv'", "max_input_tokens = 90", "max_output_tokens = 20"]
ROWS = "TIMESTAMP,ContextTokens,GeneratedTokens\n2026-01-01 09:00:00,65,9\n2026-01-01 09:00:01,400,80\n"


def test_a_trace_brings_starts_and_lengths(tmp_path):
    (tmp_path / "mine.csv").write_text(ROWS)
    path = written(tmp_path, GENERATE, arrivals=TRACE, request=["output_tokens = absent"])
    loaded = scenario.load(path)
    assert loaded.schedule() == [0, 1]
    assert [(len(call.texts[0].split()), call.output_tokens) for call in corpus.calls(loaded)] == [(58, 9), (80, 20)]


@pytest.mark.parametrize(
    ("good", "words"),
    [
        (GENERATE, "request has prompt or output_tokens, and the trace brings lengths of its own; remove them"),
        (GOOD, "arrivals.process = 'trace' tells lengths of prompts and answers; use task = 'generate'"),
    ],
)
def test_a_trace_allows_no_other_lengths(tmp_path, good, words):
    (tmp_path / "mine.csv").write_text(ROWS)
    with pytest.raises(DeclarationError, match=words):
        scenario.load(written(tmp_path, good, arrivals=TRACE))


def test_a_trace_that_is_missing_is_named(tmp_path):
    path = written(tmp_path, GENERATE, arrivals=TRACE, request=["output_tokens = absent"])
    with pytest.raises(TraceError, match=r"mine\.csv cannot be read"):
        scenario.load(path)


MIX = """
arrivals = { process = "constant", rate = 100, duration_s = 40 }
sla = { p95_ms = 250 }
[[mix]]
name = "search"
weight = 3
request = { task = "embed", model = "minilm" }
[[mix]]
name = "chat"
weight = 1
request = { task = "generate", model = "smollm2", output_tokens = 8, timeout_s = 9 }
"""


def a_mix(tmp_path, old="", new=""):
    path = tmp_path / "mix.toml"
    path.write_text(MIX.replace(old, new))
    return path


def test_a_mix_is_drawn_by_weight_and_repeats_with_its_seed(tmp_path):
    loaded = scenario.load(a_mix(tmp_path))
    assert loaded.timeout_s == 9
    drawn = list(itertools.islice(corpus.calls(loaded), 4000))
    kinds = Counter(call.kind for call in drawn)
    # Bin(4000, 3/4) has standard deviation 27.
    assert abs(kinds["search"] - 3000) < 5 * 27
    assert kinds["search"] + kinds["chat"] == 4000
    assert {(call.kind, call.request.task, call.output_tokens) for call in drawn} == {
        ("search", "embed", 0),
        ("chat", "generate", 8),
    }
    assert drawn == list(itertools.islice(corpus.calls(loaded), 4000))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"chat"', '"search"', "mix.name: search, search are not all different"),
        ("p95_ms", "ttft_p95_ms", "ttft_p95_ms can only be judged of a stream of tokens, and a mix has several"),
        (", output_tokens = 8", "", "key 'mix.chat.request.output_tokens' is missing"),
        ("p95_ms = 250", "kinds.chta.p95_ms = 250", r"sla.kinds.chta: the mix has search, chat; did you mean 'chat'\?"),
        ("p95_ms", "kinds.search.ttft_p95_ms", "sla.kinds.search.ttft_p95_ms can only be judged of a stream of tokens"),
        ("p95_ms = 250", "kinds.chat = {}", r"sla.kinds.chat: holds no objective"),
        ("weight = 3", "weight = 0", r"mix\.0\.weight = 0"),
        ("timeout_s", "timeuot_s", r"unknown key 'mix\.1\.request\.timeuot_s'; known here: .*'timeout_s'\?"),
        ("timeout_s = 9", "timeout_s = -9", r"mix\.1\.request\.timeout_s = -9: should be greater than 0"),
        ("rate", "rat", r"unknown key 'arrivals\.rat'; known here: duration_s, process, rate, .*did you mean 'rate'\?"),
        ("rate = 100, ", "", r"key 'arrivals\.rate' is missing"),
        ("[[mix]]", "[request]\ntask = 'embed'\nmodel = 'm'\n[[mix]]", r"one of \[request\] and \[\[mix\]\]"),
    ],
)
def test_what_is_wrong_with_a_mix_is_named(tmp_path, old, new, words):
    path = tmp_path / "mix.toml"
    path.write_text(MIX.replace(old, new, 1))
    with pytest.raises((DeclarationError, ScenarioError), match=words):
        scenario.load(path)


def test_a_scenario_without_requests_is_refused(tmp_path):
    path = a_mix(tmp_path, MIX[MIX.index("[[mix]]") :], "")
    with pytest.raises(ScenarioError, match=r"give it one of \[request\] and \[\[mix\]\]"):
        scenario.load(path)


def test_shipped_sentences_are_varied():
    lengths = [len(sentence.split()) for sentence in texts.sentences()]
    assert len(set(texts.sentences())) == len(lengths) >= 120
    assert min(lengths) == 5
    assert 90 <= max(lengths) <= 100


@pytest.mark.parametrize(
    ("words", "low", "high"),
    [
        (Words(), 5, 100),
        (Words(distribution="uniform", min=3, max=8), 3, 8),
        (Words(distribution="uniform", min=400, max=400), 400, 400),
        (Words(distribution="lognormal", median=20, sigma=2, min=4, max=50), 4, 50),
    ],
)
def test_texts_have_the_declared_lengths_and_repeat_with_their_seed(words, low, high):
    request = EmbedRequest(task="embed", model="minilm", texts=2, words=words)
    drawn = list(itertools.islice(corpus.drawn(request, seed=3), 300))
    lengths = [len(text.split()) for call in drawn for text in call.texts]
    assert {len(call.texts) for call in drawn} == {2}
    assert min(lengths) == low
    assert max(lengths) <= high
    assert drawn == list(itertools.islice(corpus.drawn(request, seed=3), 300))
    assert drawn != list(itertools.islice(corpus.drawn(request, seed=4), 300))


def test_lognormal_lengths_have_the_declared_median():
    words = Words(distribution="lognormal", median=20, sigma=0.5, min=1, max=1000)
    request = EmbedRequest(task="embed", model="minilm", words=words)
    lengths = sorted(len(call.texts[0].split()) for call in itertools.islice(corpus.drawn(request, seed=3), 2001))
    assert lengths[1000] == pytest.approx(20, abs=1)


def test_prompts_have_the_declared_lengths_and_repeat_with_their_seed():
    words, tokens = Words(distribution="uniform", min=15, max=25), Lengths(min=8, max=12)
    request = GenerateRequest(task="generate", model="smollm2", prompt=words, output_tokens=tokens)
    drawn = list(itertools.islice(corpus.drawn(request, seed=3), 300))
    assert {len(call.texts[0].split()) for call in drawn} == set(range(15, 26))
    assert {call.output_tokens for call in drawn} == set(range(8, 13))
    assert drawn == list(itertools.islice(corpus.drawn(request, seed=3), 300))
    assert drawn != list(itertools.islice(corpus.drawn(request, seed=4), 300))


def test_the_scenario_in_the_readme_is_one(tmp_path):
    (text,) = re.findall(r"^```toml\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    path = tmp_path / "mine.toml"
    path.write_text(text)
    assert scenario.load(path).sla.ttft_p95_ms == 800


def test_texts_come_from_a_file_of_ones_own(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "prompts.txt").write_text("Wie geht es dir?\n\nWhat is Triton?\n")
    prompt = "prompt = { distribution = 'file', file = 'mine/prompts.txt' }"
    loaded = scenario.load(written(tmp_path, GENERATE, request=[prompt]))
    assert loaded.request.prompt.file == str(tmp_path / "mine" / "prompts.txt")
    drawn = [call.texts for call in itertools.islice(corpus.calls(loaded), 40)]
    assert sorted(set(map(tuple, drawn))) == [("What is Triton?",), ("Wie geht es dir?",)]


@pytest.mark.parametrize(
    ("words", "content", "fact"),
    [
        ("distribution = 'file', file = 'mine.txt'", None, "mine.txt does not exist; `file` is a path from"),
        ("distribution = 'file', file = 'mine.txt'", b"\n \n", "mine.txt holds no text; give one a line"),
        (
            "distribution = 'file', file = 'mine.txt'",
            b"\xff\xfe",
            "mine.txt cannot be read: .*give a text file",
        ),
        ("distribution = 'file'", None, "distribution 'file' takes file; missing: file"),
        ("file = 'mine.txt'", b"text", "distribution 'sentences' takes no other key; .*too many: file"),
    ],
)
def test_a_file_of_texts_that_cannot_be_used_is_named(tmp_path, words, content, fact):
    if content is not None:
        (tmp_path / "mine.txt").write_bytes(content)
    path = written(tmp_path, request=[f"words = {{ {words} }}"])
    with pytest.raises((DeclarationError, TextsError), match=fact):
        scenario.load(path)
