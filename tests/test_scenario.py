import itertools

import pytest

from ensembles.declaration import DeclarationError
from loadtests import corpus, intervals, scenario
from loadtests.scenario import EmbedScenario, GenerateScenario, Lengths, ScenarioError, Words

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
    assert loaded.sla.latency_limits_ms()


@pytest.mark.parametrize("name", scenario.names())
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
    with pytest.raises(ScenarioError, match=r"mine\.toml: rate = 1 .* no request after warmup_s = 4\.5") as raised:
        scenario.load(path)
    assert raised.value.exit_code == 2


def test_locate_finds_shipped_names_and_files(tmp_path):
    path = written(tmp_path)
    assert scenario.locate("embed_smoke") == scenario.SCENARIOS / "embed_smoke.toml"
    assert scenario.locate(str(path)) == path
    with pytest.raises(ScenarioError, match="did you mean 'embed_smoke'"):
        scenario.locate("embed_smok")


@pytest.mark.parametrize(("name", "kind"), [("embed_batch", EmbedScenario), ("generate_stream", GenerateScenario)])
def test_a_scenario_survives_json(name, kind):
    loaded = scenario.load(scenario.locate(name))
    assert kind.model_validate_json(loaded.model_dump_json(exclude_none=True)) == loaded


def test_shipped_sentences_are_varied():
    lengths = [len(sentence.split()) for sentence in corpus.sentences()]
    assert len(set(corpus.sentences())) == len(lengths) >= 120
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
    drawn = list(itertools.islice(corpus.requests(2, words, seed=3), 300))
    lengths = [len(text.split()) for texts in drawn for text in texts]
    assert {len(texts) for texts in drawn} == {2}
    assert min(lengths) == low
    assert max(lengths) <= high
    assert drawn == list(itertools.islice(corpus.requests(2, words, seed=3), 300))
    assert drawn != list(itertools.islice(corpus.requests(2, words, seed=4), 300))


def test_lognormal_lengths_have_the_declared_median():
    words = Words(distribution="lognormal", median=20, sigma=0.5, min=1, max=1000)
    lengths = sorted(len(texts[0].split()) for texts in itertools.islice(corpus.requests(1, words, seed=3), 2001))
    assert lengths[1000] == pytest.approx(20, abs=1)


def test_prompts_have_the_declared_lengths_and_repeat_with_their_seed():
    words, tokens = Words(distribution="uniform", min=15, max=25), Lengths(min=8, max=12)
    drawn = list(itertools.islice(corpus.prompts(words, tokens, seed=3), 300))
    assert {len(prompt.split()) for prompt, _ in drawn} == set(range(15, 26))
    assert {wanted for _, wanted in drawn} == set(range(8, 13))
    assert drawn == list(itertools.islice(corpus.prompts(words, tokens, seed=3), 300))
    assert drawn != list(itertools.islice(corpus.prompts(words, tokens, seed=4), 300))
