"""Guided decoding, which this engine does not carry: every guide is refused."""

from request import BadRequest


class Grammars:
    """Takes the place of the grammars of `onnx_generate`."""

    def __init__(self, tokenizer_file, vocabulary, end_ids):
        pass

    def begin(self, kind, guide, end_ids=None):
        """Raise BadRequest."""
        raise BadRequest("guided decoding is not carried by openvino_generate; serve the model with onnx_generate")
