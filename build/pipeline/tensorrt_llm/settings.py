"""How the TensorRT-LLM checkpoint of an engine is made of the Hugging Face one, as its recipe says. Pure."""

from typing import TypeAlias

from pipeline.gpu_engines import WEIGHT_ONLY, TensorRtLlmEngine
from pipeline.tensorrt_llm.quantised_checkpoint import Quantisation
from pipeline.tensorrt_llm.split import Split

# Plain weights that are split, or weights quantised by modelopt.
Settings: TypeAlias = Split | Quantisation


def checkpoint_settings(engine: TensorRtLlmEngine) -> Settings:
    """Return how the checkpoint that `engine` is built from is made."""
    quantisation = engine.quantisation
    if quantisation is None or quantisation == "w8a16" or quantisation == "w4a16":
        weights = WEIGHT_ONLY[quantisation] if quantisation else None
        return Split(engine.tp, engine.pp, engine.dtype, weights)
    return Quantisation(quantisation, engine.kv_cache, engine.tp, engine.pp, engine.dtype)
