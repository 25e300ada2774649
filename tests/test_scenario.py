import itertools

import pytest

from ensembles.declaration import DeclarationError
from loadtests import corpus, scenario
from loadtests.scenario import Scenario, ScenarioError, Words

GOOD = {
    "arrivals": ["process = 'poisson'", "rate = 10.0", "duration_s = 5"],
    "request": ["task = 'embed'", "model = 'minilm'"],
    "sla": ["p95_ms = 250"],
}


def written(tmp_path, **changes):
    """Write a good scenario, the lines of `changes` added to its tables or put in place of its own."""
    text = ""
    for table, lines in (GOOD | {key: [] for key in changes if key not in GOOD}).items():
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


def test_a_scenario_is_read_with_its_defaults(tmp_path):
    loaded = scenario.load(written(tmp_path))
    assert (loaded.arrivals.warmup_s, loaded.request.texts, loaded.request.timeout_s) == (0, 1, 5)
    assert loaded.sla.latency_limits_ms() == {95: 250}


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


def test_a_scenario_survives_json(tmp_path):
    loaded = scenario.load(scenario.locate("embed_batch"))
    assert Scenario.model_validate_json(loaded.model_dump_json(exclude_none=True)) == loaded


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
