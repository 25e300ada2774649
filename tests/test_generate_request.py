"""What the engine takes and what it refuses."""

import math

import pytest
from request import BadRequest, Settings, answer_limit
from terms import Terms, read_terms


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_tokens": 0}, "max_tokens is 0; give 1 or more"),
        ({"max_tokens": -5}, "max_tokens is -5"),
        ({"min_tokens": -1}, "min_tokens is -1"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens is 9, more than max_tokens = 8"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_p": math.nan}, "top_p is nan"),
        ({"min_p": -0.1}, "min_p is -0.1; give a number between 0 and 1"),
        ({"min_p": math.nan}, "min_p is nan"),
        ({"logit_bias": {7: math.inf}}, "the logit bias of token 7 is inf; give a finite number"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0"),
        ({"presence_penalty": math.nan}, "presence_penalty is nan"),
        ({"frequency_penalty": -math.inf}, "frequency_penalty is -inf"),
    ],
)
def test_settings_out_of_range_are_refused_by_name_and_value(settings, words) -> None:
    with pytest.raises(BadRequest) as refused:
        Settings(**settings)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bad_ids": ((1,), (2, 50))}, "bad_words_list holds 50; the vocabulary has the ids 0 to 49"),
        ({"end_ids": (50,)}, "end_id holds 50"),
        ({"logit_bias": {3: 1.0, 64: 1.0}}, "embedding_bias holds 64; the vocabulary has the ids 0 to 49"),
    ],
)
def test_token_ids_are_those_of_the_vocabulary(settings, words) -> None:
    with pytest.raises(BadRequest, match=words):
        answer_limit(Settings(**settings), [1], length=10, vocabulary=50)


@pytest.mark.parametrize(
    ("settings", "greedy"),
    [
        ({}, True),
        ({"temperature": 0.0}, True),
        ({"temperature": 0.7}, False),
        ({"temperature": 1e-6, "top_p": 0.9}, True),
        ({"min_p": 0.1}, False),
        ({"top_k": 1, "temperature": 1.0}, True),
        ({"top_k": 40}, False),
        ({"top_k": 0}, False),
        ({"top_p": 0.0, "temperature": 1.0}, True),
        ({"top_p": 0.9}, False),
        ({"repetition_penalty": 1.3}, True),
    ],
)
def test_greedy_unless_sampling_is_asked_for(settings, greedy) -> None:
    assert Settings(**settings).is_greedy is greedy


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "want"),
    [
        ([1, 2], None, 8),
        ([1, 2], 3, 3),
        ([1, 2], 8, 8),
        ([1] * 9, None, 1),
        ([], None, "input_ids is empty"),
        ([1, 50, 2], None, "input_ids holds 50; the vocabulary has the ids 0 to 49"),
        ([1, -1], None, "input_ids holds -1"),
        ([1] * 10, None, "the prompt has 10 tokens; a slot holds 10, answer included"),
        ([1] * 200, 5, "the prompt has 200 tokens"),
        ([1, 2], 9, "max_tokens is 9, but a prompt of 2 tokens leaves room for 8 of the 10"),
    ],
)
def test_prompt_and_answer_fit_a_slot(prompt, max_tokens, want) -> None:
    settings = Settings(max_tokens=max_tokens)
    if isinstance(want, int):
        assert answer_limit(settings, prompt, length=10, vocabulary=50) == want
    else:
        with pytest.raises(BadRequest) as refused:
            answer_limit(settings, prompt, length=10, vocabulary=50)
        assert want in str(refused.value)


@pytest.mark.parametrize(
    ("parameters", "terms"),
    [
        ("", Terms()),
        ('{"id": "7", "sequence": 5}', Terms()),
        ('{"id": "7", "cache_salt": "mine"}', Terms(cache_salt="mine")),
        ('{"tenant": "a", "priority_level": 2, "timeout": 5, "queue_timeout": 3}', Terms(2, "a", 5, 3)),
    ],
)
def test_terms_are_among_a_requests_parameters(parameters, terms) -> None:
    assert read_terms(parameters) == terms


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ('{"cache_salt": 5}', "cache_salt is 5; give a string"),
        ('{"tenant": true}', "tenant is True; give a string"),
        ('{"priority_level": 0}', "priority_level is 0; give a whole number from 1 to 9"),
        ('{"priority_level": "1"}', "priority_level is '1'"),
        ('{"timeout": -1}', "timeout is -1; give a whole number from 0"),
        ('{"queue_timeout": 1.5}', "queue_timeout is 1.5"),
        ('{"queue_timeout": true}', "queue_timeout is True"),
    ],
)
def test_terms_of_another_kind_are_refused(parameters, words) -> None:
    with pytest.raises(BadRequest, match=words):
        read_terms(parameters)


def test_tritons_own_timeout_is_taken_where_no_parameter_says_another() -> None:
    assert read_terms("{}", timeout=7) == Terms(timeout=7)
    assert read_terms('{"timeout": 8}', timeout=7) == Terms(timeout=8)
    assert read_terms('{"queue_timeout": 2000000}', timeout=3000000).start_within_s == 2
    assert Terms(timeout=500000).start_within_s == 0.5
    assert Terms().start_within_s is None
