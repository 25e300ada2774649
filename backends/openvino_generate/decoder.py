"""The decoder: OpenVINO GenAI's `ContinuousBatchingPipeline`, whose own scheduler forms the steps.

Knows nothing of queues, stop words or Triton. A step takes a token of every running request and a chunk of the prompts;
KV lies in the library's blocks. Prefixes are not shared: with that, its greedy answers to near-equal prompts change.
"""

import json
import os
from itertools import count
from pathlib import Path

import numpy as np
import openvino
import openvino_genai
from request import BadRequest

# Tokens of all requests that one step takes: of a long prompt more is hardly faster, and stalls those that run.
CHUNK = 128
# Tokens of a block of the CPU's KV cache.
BLOCK = 32


class Decoder:
    """`slots` requests of at most `length` tokens each, over the engine in `folder`, on the CPU.

    The folder holds openvino_model.xml and .bin, decoder.json, and openvino.json: the properties of the runtime that
    the engine was proved with. `threads` 0 is one a core.

    Raises RuntimeError: `provider` is another than cpu, or OpenVINO cannot open the engine.
    """

    def __init__(self, folder, slots, length, threads=0, provider="cpu"):
        if provider != "cpu":
            raise RuntimeError(f"provider is '{provider}', and openvino_generate runs on the cpu alone; leave it out")
        self.slots, self.length = slots, length
        facts = json.loads((Path(folder) / "decoder.json").read_text())
        self.end_ids, self.vocabulary = tuple(facts["end_ids"]), facts["vocab_size"]
        properties = json.loads((Path(folder) / "openvino.json").read_text())
        # Left alone it counts physical cores.
        properties["INFERENCE_NUM_THREADS"] = threads or len(os.sched_getaffinity(0))
        plan = openvino_genai.SchedulerConfig()
        plan.max_num_seqs, plan.max_num_batched_tokens = slots, CHUNK
        plan.num_kv_blocks = slots * -(-length // BLOCK)
        plan.dynamic_split_fuse, plan.enable_prefix_caching = True, False
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(str(folder), plan, "CPU", properties)
        self._numbers = count()

    @property
    def is_busy(self):
        """Whether a step has anything to do, if only to forget what was stopped."""
        return self._pipeline.has_non_finished_requests()

    def configured(self, arguments):
        """Return the GenerationConfig of these keywords; raise BadRequest, in the library's words, if it cannot."""
        config = openvino_genai.GenerationConfig(**arguments)
        try:
            config.validate()
        except RuntimeError as error:
            # The lines before name the library's own file.
            raise BadRequest(f"OpenVINO GenAI does not take it: {str(error).strip().splitlines()[-1]}") from None
        return config

    def start(self, prompt, config):
        """Hand over a prompt (token ids) and its GenerationConfig; return its handle."""
        ids = openvino.Tensor(np.array([prompt], np.int64))
        return self._pipeline.add_request(next(self._numbers), ids, config)

    def step(self):
        """Run the model once; meanwhile no other thread runs, for the library keeps Python's lock (2026.4.1)."""
        self._pipeline.step()

    def read(self, handle):
        """Return the tokens since, their log probabilities (0.0 unless asked for), and whether no more come."""
        over = handle.get_status() != openvino_genai.GenerationStatus.RUNNING
        outputs = []
        while handle.can_read():
            outputs += handle.read().values()
        tokens = [token for output in outputs for token in output.generated_ids]
        return tokens, [value for output in outputs for value in output.generated_log_probs], over

    def stop(self, handle):
        """Let a request go; the next step frees what it holds."""
        handle.cancel()
