"""A load generator by hand on tritonclient: a thread a request, which starts when it is due and reads the stream.

Shares no code with what it is held against: no SDK, no Locust, no gevent. Reads a line of JSON a request,
[due_s, prompt, tokens], and prints one an answer, [due_s, ttft_ms, itl_ms]: from the due start to the first token,
and between tokens, of which n that come g after the ones before are n times g / n.

    python tests/tritonclient_loop.py HOST:PORT < REQUESTS
"""

import contextlib
import json
import sys
import threading
import time
from queue import LifoQueue, Queue

import numpy as np
import tritonclient.grpc as triton

DTYPES = {"BYTES": np.object_, "BOOL": np.bool_, "INT32": np.int32}
# More than are ever out at once; each stream has a connection of its own.
STREAMS = 16


def main():
    requests = [json.loads(line) for line in sys.stdin]
    with contextlib.ExitStack() as opened:
        streams = LifoQueue()
        for _ in range(STREAMS):
            streams.put(a_stream(opened, sys.argv[1]))
        found, begun = [], time.perf_counter()
        threads = [threading.Thread(target=send, args=(found, streams, begun, *request)) for request in requests]
        for (due_s, _, _), thread in zip(requests, threads, strict=True):
            time.sleep(max(begun + due_s - time.perf_counter(), 0))
            thread.start()
        for thread in threads:
            thread.join()
    for answer in found:
        print(json.dumps(answer))


def a_stream(opened, address):
    """A client whose stream is open, and the queue that its answers arrive in with their times."""
    answers = Queue()
    client = opened.enter_context(triton.InferenceServerClient(address))
    assert client.is_server_live()
    client.start_stream(lambda result, error: answers.put((time.perf_counter(), result, error)))
    opened.callback(client.stop_stream)
    return client, answers


def send(found, streams, begun, due_s, prompt, tokens):
    """Send one request on an idle stream; add what was measured of its answer to `found`."""
    client, answers = stream = streams.get_nowait()
    inputs = [
        tensor("messages", "BYTES", json.dumps([{"role": "user", "content": prompt}]).encode()),
        tensor("max_tokens", "INT32", tokens),
        tensor("min_tokens", "INT32", tokens),
        tensor("stream", "BOOL", True),
    ]
    client.async_stream_infer("smollm2", inputs)
    last, so_far, between, finished = begun + due_s, 0, [], b""
    while not finished:
        at, result, error = answers.get(timeout=30)
        assert error is None, error
        finished = result.as_numpy("finish_reason").item()
        new = int(result.as_numpy("num_output_tokens").item()) - so_far
        if new:
            # What came first is not between tokens: it counts once, as the time to it.
            between += [1000 * (at - last) / new] * new if so_far else [1000 * (at - last)]
            last, so_far = at, so_far + new
    streams.put(stream)
    found.append([due_s, between[0], between[1:]])


def tensor(name, datatype, value):
    made = triton.InferInput(name, [1, 1], datatype)
    made.set_data_from_numpy(np.array([[value]], DTYPES[datatype]))
    return made


if __name__ == "__main__":
    main()
