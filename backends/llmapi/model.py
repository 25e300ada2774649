"""Triton python-based backend `llmapi`: text in, text in deltas out, by TensorRT-LLM's LLM API (1.2 and later).

Runs inside Triton from its own folder and imports nothing of the project. The version folder holds `model.yaml`, and
beside it what that names. Its tensors are those of NVIDIA's own llmapi model (`triton_backend/all_models/llmapi/
tensorrt_llm`), which differs: a streamed `text_output` there repeats all that was said before, and `finish_reason` is
"None" until the end; here they are the new text, and empty. A request with `stop` set ends those that have its id.

Served without --disable-auto-complete-config: how large batches are, and that it is decoupled, says model.yaml.
"""

import asyncio
import contextlib
import json
import threading
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
from answer import Answer
from model_yaml import read_model_yaml
from sampling import BadRequest, prompt_of, sampling_params, stop_strings

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
# How often is asked whether callers have gone; a round trip to the server for each.
WATCH_S = 0.25


class TritonPythonModel:
    """The decoder step, decoupled: a request is answered by deltas until one carries `finish_reason`."""

    @staticmethod
    def auto_complete_config(config):
        """Let model.yaml say what config.pbtxt leaves out; raise where it is missing or wrong."""
        triton, _ = _settings()
        config.set_max_batch_size(triton["max_batch_size"])
        config.set_model_transaction_policy({"decoupled": True})
        return config

    def initialize(self, args):
        """Start the LLM; raise, so that the model fails to load."""
        config = json.loads(args["model_config"])
        self.name = config["name"]
        if not config.get("model_transaction_policy", {}).get("decoupled"):
            raise pb_utils.TritonModelException(
                f"{self.name} is not decoupled; start tritonserver without --disable-auto-complete-config"
            )
        self.lead = [1] if config["max_batch_size"] else []
        _, arguments = _settings()
        try:
            from tensorrt_llm import LLM, SamplingParams
        except ImportError as error:
            raise pb_utils.TritonModelException(f"{self.name} needs TensorRT-LLM 1.2 or later: {error}") from None
        try:
            self.llm, self.sampling = LLM(**arguments), SamplingParams
        except Exception as error:
            raise pb_utils.TritonModelException(f"{self.name}: {error}") from error
        # Touched by the loop's thread alone: request id -> the generations that have it, "" among them.
        self.running = {}
        started = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._live(started)), name="llm", daemon=True)
        self.thread.start()
        started.wait()

    def execute(self, requests):
        """Take the requests in; the answers come later."""
        for request in requests:
            sender = request.get_response_sender()
            sent = {tensor.name(): tensor.as_numpy().reshape(-1).tolist() for tensor in request.inputs()}
            wanted = set(request.requested_output_names())
            asyncio.run_coroutine_threadsafe(self._take(sent, request.request_id(), sender, wanted), self.loop)

    def finalize(self):
        """End the thread, and the LLM."""
        self.loop.call_soon_threadsafe(self.closed.set)
        self.thread.join()
        self.llm.shutdown()

    async def _take(self, sent, key, sender, wanted):
        """Answer one request, to its end; whatever goes wrong costs it alone."""
        try:
            if sent.get("stop") == [True]:
                self._stop(key)
                sender.send(flags=FINAL)
            else:
                answer = Answer(sent.get("streaming") == [True], stop_strings(sent))
                with self._generating(sent, key, sender) as generation:
                    await self._answer(generation, answer, wanted)
        except (BadRequest, ValueError) as error:  # ValueError: what the LLM API thinks of an argument
            _refuse(sender, f"{self.name}: {error}", pb_utils.TritonError.INVALID_ARG)
        except Exception as error:
            _refuse(sender, f"{self.name}: {type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL)

    @contextlib.contextmanager
    def _generating(self, sent, key, sender):
        """Start a generation, which can be stopped by its id while the block runs."""
        # Whoever waits for a stop string must see the text as it comes.
        streaming = sent.get("streaming") == [True] or "sampling_param_stop" in sent
        sampling = self.sampling(**sampling_params(sent))
        generation = _Generation(self.llm.generate_async(prompt_of(sent), sampling, streaming=streaming), sender)
        self.running.setdefault(key, set()).add(generation)
        try:
            yield generation
        finally:
            self.running[key].discard(generation)
            if not self.running[key]:
                del self.running[key]

    async def _answer(self, generation, answer, wanted):
        """Send what comes until the end; leave the LLM's rest unread once a stop string has ended the answer."""
        async for output in generation.result:
            (said, *_) = output.outputs
            piece = answer.push(said.text_diff, said.finish_reason or "")
            if piece:
                generation.sender.send(self._response(*piece, wanted), FINAL if answer.done else 0)
            if answer.done:
                if not output.finished:
                    generation.abort()
                return
        raise RuntimeError("the answer ended without a finish reason")

    def _response(self, text, reason, wanted):
        values = {
            "text_output": np.array([text.encode()], object),
            "finish_reason": np.array([reason.encode()], object),
        }
        # Not one more than were requested: see `onnx_generate`.
        tensors = [
            pb_utils.Tensor(name, value.reshape(*self.lead, 1)) for name, value in values.items() if name in wanted
        ]
        return pb_utils.InferenceResponse(tensors)

    def _stop(self, key):
        if not key:
            raise BadRequest("stop ends the requests of its own id, and came without one; send their id")
        for generation in self.running.get(key, ()):
            generation.abort()

    async def _live(self, started):
        """Run until `closed`, and abort what nobody waits for any more."""
        self.loop, self.closed = asyncio.get_running_loop(), asyncio.Event()
        started.set()
        while not self.closed.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.closed.wait(), WATCH_S)
            # On the thread that sends: a sender that has sent its last must not be asked.
            for generation in [each for group in self.running.values() for each in group]:
                if generation.sender.is_cancelled():
                    generation.abort()


class _Generation:
    """One generation under way: `result` of the LLM API, and where its answers go."""

    def __init__(self, result, sender):
        self.result, self.sender = result, sender
        self._aborted = False

    def abort(self):
        """End it, once; its last output says that it was cancelled."""
        if not self._aborted:
            self._aborted = True
            self.result.abort()


def _settings():
    try:
        return read_model_yaml(Path(pb_utils.get_model_dir()))
    except ValueError as error:
        raise pb_utils.TritonModelException(str(error)) from None


def _refuse(sender, fault, code):
    error = pb_utils.TritonError(fault, code)
    sender.send(pb_utils.InferenceResponse(error=error), flags=FINAL)
