"""A request on its way becomes the sample that is written down."""

import grpc
import pytest

from loadtests.samples import EmbedSample, GenerateSample
from loadtests.traffic.corpus import Call
from loadtests.traffic.flight import Flight
from loadtests.traffic.request import EmbedRequest, GenerateRequest

EMBED = EmbedRequest(task="embed", model="minilm", texts=2)
GENERATE = GenerateRequest(task="generate", model="smollm2", output_tokens=3)


def test_an_embedding_says_how_many_texts_it_was():
    flight = Flight(Call(EMBED, ["a", "b"], kind="search"), 1.0, 1.00000049)
    assert flight.sample(7, 1.25, None) == EmbedSample(
        index=7, kind="search", intended_s=1.0, started_s=1.0, finished_s=1.25, ok=True, texts=2
    )


@pytest.mark.parametrize(("error", "name"), [(None, None), (ValueError("words that may be secret"), "ValueError")])
def test_a_generation_keeps_what_came_of_it_also_when_it_failed(error, name):
    deltas = [(0.5, 1), (0.6000004, 3)]
    flight = Flight(Call(GENERATE, ["a prompt"], output_tokens=3), 0.0, 0.001, tokens_in=9, deltas=deltas)
    sample = flight.sample(0, 0.7, error)
    assert isinstance(sample, GenerateSample)
    assert (sample.ok, sample.error) == (error is None, name)
    assert (sample.tokens_in, sample.tokens_out, sample.deltas) == (9, 3, ((0.5, 1), (0.6, 3)))


def test_grpcio_still_has_the_private_name_that_the_locustfile_sets():
    """Without it 500 streams cost the generator a third of a core: look again when the pin of grpcio moves."""
    assert grpc._common.MAXIMUM_WAIT_TIMEOUT > 0
