"""The decoder: an ONNX graph with GroupQueryAttention, and the KV of a fixed number of slots that it works on in place.

Knows nothing of requests, sampling or Triton. What the graph must be is onnxruntime-genai's model builder's form
(`past_present_share_buffer`): `input_ids` [B, S] and `attention_mask` [B, T] INT64, T the longest row's cached and new
tokens, maybe `position_ids` [B, S]; `past_key_values.N.key|value` FP32 or FP16 [B, heads, length, head size] bound to
the very memory of `present.N.*`, so that nothing is copied; `logits` FP32 or FP16 [B, 1, V] of each row's last token.
Caches lie where the graph runs; ids and logits, which Python works on, are always in this process' memory.

model.onnx runs everywhere. Where an engine has decode.onnx and prefill.onnx too, answers go through the one and
prompts, however long they are, through the other: equal at their edges, over the same caches, and faster where many
rows or tokens come at once. They multiply 8-bit integers, which overflow, and are no faster, on a CPU without VNNI:
there all goes through model.onnx.

Where an engine has verify.onnx, it gives the logits behind a few tokens of one row at once, to the last bit those that
decoding gives one after the other. That is tried when the engine is opened: kernels differ from CPU to CPU.

A row is a slot. The graph takes rows 0..n-1 of each buffer as they lie, so the rows that decode must be the first ones.
"""

import json
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
from kv_cache import CudaRuntime, DeviceCache, HostCache

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def open_session(file, threads, provider="cpu"):
    """Return an ONNX Runtime session on `provider`, cpu or cuda, with `threads` threads on the CPU (0: one a core).

    Raises RuntimeError: the provider is not to be had.
    """
    if provider not in PROVIDERS:
        raise RuntimeError(f"provider is '{provider}', which is not one of {', '.join(PROVIDERS)}")
    if provider == "cuda":
        if PROVIDERS[provider] not in ort.get_available_providers():
            raise RuntimeError("provider is cuda, but onnxruntime is installed without it; install onnxruntime-gpu")
        ort.preload_dlls()  # those that come as Python packages are on no library path
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Long enough to bridge the gaps between two operators, short enough to leave the cores to the other steps.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "20")
    session = ort.InferenceSession(str(file), options, providers=[PROVIDERS[provider]])
    if PROVIDERS[provider] not in session.get_providers():
        # ONNX Runtime goes on with the CPU.
        raise RuntimeError("provider is cuda, but CUDA does not start; see `nvidia-smi` and the lines above")
    return session


def has_vnni():
    """Whether this CPU multiplies unsigned by signed 8-bit integers without overflow, as /proc/cpuinfo tells."""
    return not {"avx512_vnni", "avx_vnni"}.isdisjoint(Path("/proc/cpuinfo").read_text().split())


class Decoder:
    """`slots` rows of at most `length` tokens over the engine in `folder`, on `provider`: cpu, or cuda's first GPU.

    `lengths` INT64 [slots] is how many tokens each row has cached; `verified` is how many tokens `verify` takes, 0
    where it is not to be had. KV memory of the CPU is touched only where it was written.
    """

    def __init__(self, folder, slots, length, threads=0, provider="cpu"):
        self.slots, self.length, folder = slots, length, Path(folder)
        facts = json.loads((folder / "decoder.json").read_text())
        self.end_ids, self.vocabulary = tuple(facts["end_ids"]), facts["vocab_size"]
        of_integers = (folder / "decode.onnx").exists() and has_vnni()
        self._session = open_session(folder / ("decode.onnx" if of_integers else "model.onnx"), threads, provider)
        self._prefill = open_session(folder / "prefill.onnx", threads, provider) if of_integers else self._session
        cache = HostCache if provider == "cpu" else partial(DeviceCache, cuda=CudaRuntime())
        inputs = {each.name: each for each in self._session.get_inputs()}
        outputs = {each.name: each.type for each in self._session.get_outputs()}
        self._wants_positions = "position_ids" in inputs
        self._kv = {
            name: cache((slots, each.shape[1], length, facts["head_size"]), FLOATS[each.type])
            for name, each in inputs.items()
            if name.startswith("past_key_values.")
        }
        verify = folder / "verify.onnx"
        self._verify = open_session(verify, threads, provider) if verify.exists() else None
        self.verified = _tokens_of_logits(self._verify) if self._verify else 0
        self._logits = np.empty((max(slots, self.verified), self.vocabulary), FLOATS[outputs["logits"]])
        self._bindings = {}
        self.lengths = np.zeros(slots, np.int64)
        if self._verify and not self._verifies_exactly():
            self._verify, self.verified = None, 0

    def decode(self, tokens):
        """Append one token to each of the first rows, `tokens` INT64 [n]; return their logits FP32 [n, V].

        The logits may be a view that the next call overwrites.
        """
        return self._run(self._session, 0, tokens[:, None])[:, 0]

    def prefill(self, row, tokens):
        """Append `tokens` INT64 [s] to `row`; return the logits FP32 [V] of the last one, a view as above."""
        return self._run(self._prefill, row, tokens[None, :])[0, 0]

    def verify(self, row, tokens):
        """Append `tokens` INT64 [verified] to `row`; return the logits FP32 [verified, V] behind each, a view as above.

        Tokens that turn out to be wrong are taken back by `copy(row, row, length)`.
        """
        return self._run(self._verify, row, tokens[None, :])[0]

    def copy(self, source, target, length):
        """Make the first `length` tokens of row `source` all that row `target` holds; both may be the same."""
        if source != target and length:
            for cache in self._kv.values():
                cache.copy(source, target, length)
        self.lengths[target] = length

    def swap(self, first, second):
        """Exchange what two rows hold."""
        lengths = self.lengths[[first, second]].tolist()
        if 0 in lengths:  # half the work
            empty, other = (first, second) if lengths[0] == 0 else (second, first)
            self.copy(other, empty, max(lengths))
            self.lengths[other] = 0
            return
        for cache in self._kv.values():
            cache.swap(first, second, lengths)
        self.lengths[[second, first]] = lengths

    def _run(self, session, first, tokens):
        """Append `tokens` INT64 [n, s] to the rows from `first` on; return the logits FP32 [n, 1, V] behind them.

        The graph that verifies has those behind each token, FP32 [n, s, V].
        """
        rows, width = tokens.shape
        end = first + rows
        lengths = self.lengths[first:end]
        before = lengths[:, None]
        feeds = {
            "input_ids": tokens,
            "attention_mask": (np.arange(lengths.max() + width) < before + width).astype(np.int64),
        }
        if self._wants_positions:
            feeds["position_ids"] = before + np.arange(width)
        binding, logits = self._binding(session, first, end)
        for name, value in feeds.items():
            value = np.ascontiguousarray(value)
            feeds[name] = value  # the binding holds a bare address
            binding.bind_input(name, "cpu", 0, np.int64, value.shape, value.ctypes.data)
        session.run_with_iobinding(binding)
        lengths += width
        return logits.astype(np.float32, copy=False)

    def _binding(self, session, first, end):
        """The KV rows first..end-1 and their logits, bound to `session` once, and the logits."""
        key = session, first, end
        if key not in self._bindings:
            binding = session.io_binding()
            for name, cache in self._kv.items():
                binding.bind_input(name, *cache.at(first, end))
            for output in session.get_outputs():
                # present.N.key, and present.N.key.1 and so on where several tokens are attended to one by one
                kind, *place = output.name.split(".")
                if kind == "present":
                    binding.bind_output(
                        output.name, *self._kv[".".join(["past_key_values", *place[:2]])].at(first, end)
                    )
            shape = end - first, _tokens_of_logits(session), self.vocabulary
            logits = self._logits[: shape[0] * shape[1]].reshape(shape)
            binding.bind_output("logits", "cpu", 0, logits.dtype.type, shape, logits.ctypes.data)
            self._bindings[key] = binding, logits
        return self._bindings[key]

    def _verifies_exactly(self):
        """Whether this CPU's kernels give the same logits for tokens at once as for one after the other."""
        tokens = np.arange(1, self.verified + 1)
        alone = [self.decode(tokens[place : place + 1])[0].copy() for place in range(self.verified)]
        self.copy(0, 0, 0)
        at_once = self.verify(0, tokens)
        self.copy(0, 0, 0)
        return np.array_equal(at_once, alone)


def _tokens_of_logits(session):
    """Return behind how many tokens of a row the graph gives logits."""
    (logits,) = [output for output in session.get_outputs() if output.name == "logits"]
    return logits.shape[1]
