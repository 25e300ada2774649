"""The table from what a server answers to the error tree."""

import inspect
import pickle

import grpc
import pytest

import tritonyard
from tritonyard import (
    AccessDenied,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    ServerFailed,
    ServerOverloaded,
    ServerUnavailable,
    TritonyardError,
    _errors,
)
from tritonyard._errors import RULES, kind_of

ERRORS = [kind for kind in vars(_errors).values() if inspect.isclass(kind) and issubclass(kind, Exception)]


@pytest.mark.parametrize("status", [status for status in grpc.StatusCode if status is not grpc.StatusCode.OK])
def test_every_grpc_status_is_in_the_table(status):
    assert any(status.name in rule.statuses and not rule.words for rule in RULES)


def test_the_table_names_no_status_that_grpc_lacks():
    names = {status for rule in RULES for status in rule.statuses if isinstance(status, str)}
    assert names <= {status.name for status in grpc.StatusCode}


@pytest.mark.parametrize("code", range(400, 600))
def test_every_http_code_has_a_class(code):
    assert issubclass(kind_of(code, ""), TritonyardError)


@pytest.mark.parametrize(
    ("code", "status", "http", "kind"),
    [
        ("UNKNOWN", "UNKNOWN", 400, ServerFailed),
        ("INTERNAL", "INTERNAL", 500, ServerFailed),
        ("NOT_FOUND", "NOT_FOUND", 404, ModelNotFound),
        ("INVALID_ARG", "INVALID_ARGUMENT", 400, InvalidRequest),
        ("UNAVAILABLE", "UNAVAILABLE", 503, ServerUnavailable),
        ("UNSUPPORTED", "UNIMPLEMENTED", 501, InvalidRequest),
        ("ALREADY_EXISTS", "ALREADY_EXISTS", 400, InvalidRequest),
        ("CANCELLED", "CANCELLED", 400, ServerUnavailable),
    ],
)
def test_every_code_of_tritonserver_is_one_class_on_both_protocols(code, status, http, kind):
    """TRITONSERVER_Error_Code, and what 2.51 makes of each: over HTTP 400 of four, told apart by their words alone."""
    assert kind_of(status, "") is kind
    assert kind_of(http, "") is (InvalidRequest if http == 400 else kind)


@pytest.mark.parametrize("code", [400, 403, 404, 405, 413, 415, 500, 501, 503])
def test_the_codes_that_tritonserver_itself_writes_are_in_the_table(code):
    assert any(code in rule.statuses and not rule.words for rule in RULES)


@pytest.mark.parametrize(
    ("status", "words", "kind"),
    [
        ("UNAVAILABLE", "Exceeds maximum queue size", ServerOverloaded),
        ("UNAVAILABLE", "in ensemble 'minilm', Exceeds maximum queue size", ServerOverloaded),
        (503, "Exceeds maximum queue size", ServerOverloaded),
        (429, "", ServerOverloaded),
        ("UNAVAILABLE", "failed to connect to all addresses", ServerUnavailable),
        ("UNAVAILABLE", "Server is stopping, scheduler for model has stopped", ServerUnavailable),
        ("NOT_FOUND", "Request for unknown model: 'x' is not found", ModelNotFound),
        ("UNAVAILABLE", "Request for unknown model: 'x' has no available versions", ModelNotFound),
        (400, "Request for unknown model: 'x' is not found", ModelNotFound),
        (404, "", ModelNotFound),
        ("UNAVAILABLE", "This protocol is restricted, expecting header 'triton-admin-key'", AccessDenied),
        (403, "This API is restricted, expecting header 'triton-admin-key'", AccessDenied),
        ("INVALID_ARGUMENT", "text 0 has 900 tokens", InvalidRequest),
        (400, "text 0 has 900 tokens", InvalidRequest),
        ("RESOURCE_EXHAUSTED", "CLIENT: Received message larger than max (9 vs. 4)", InvalidRequest),
        ("DEADLINE_EXCEEDED", "", DeadlineExceeded),
        ("INTERNAL", "boom", ServerFailed),
        (500, "boom", ServerFailed),
        (418, "I am a teapot", InvalidRequest),
        (599, "", ServerFailed),
    ],
)
def test_status_and_words_choose_the_class(status, words, kind):
    assert kind_of(status, words) is kind


def test_the_tree_has_one_root_and_one_sentence_a_class():
    for kind in ERRORS:
        assert issubclass(kind, TritonyardError)
        assert kind.__doc__
        first = kind.__doc__.splitlines()[0]
        assert first.endswith(".")
        assert kind is TritonyardError or first.rstrip(".").lower() in _errors.__doc__.lower()


def test_exported_names_are_exactly_all():
    modules = {"tritonyard"}
    public = {name for name, value in vars(tritonyard).items() if not name.startswith("_")}
    assert sorted(public - modules) == sorted(tritonyard.__all__)
    assert {kind.__name__ for kind in ERRORS} <= set(tritonyard.__all__)


def test_a_message_is_subject_fact_and_mend():
    error = ModelNotFound("it is not there", model="minilm", url="grpc://h:1", status="NOT_FOUND", words="w")
    assert str(error) == "model 'minilm' at grpc://h:1: it is not there; check the name, or load the model"
    assert str(InvalidRequest("it is wrong")) == "it is wrong"


def test_an_error_survives_pickling():
    error = pickle.loads(pickle.dumps(ServerFailed("boom", model="m", url="u", status=500, words="w")))
    assert (str(error), error.model, error.url, error.status, error.words) == (
        "model 'm' at u: boom; the server's log says more",
        "m",
        "u",
        500,
        "w",
    )
