"""Call several servers that serve the same models, send again what may be, and see each decision.

python retries.py grpc://10.0.0.1:8001 grpc://10.0.0.2:8001 http://10.0.0.3:8000
"""

import sys

from tritonyard import Client, Event, Retry, TritonyardError


def watch(event: Event) -> None:
    print(f"  {event.kind}: attempt {event.attempt} at {event.url}{f', {event.error}' if event.error else ''}")


# At most 5 attempts, pauses from 0.2 s on, and all of it within the 10 s of the call.
with Client(sys.argv[1:], model="minilm", timeout=10, retry=Retry(5, backoff=0.2), on_event=watch) as client:
    try:
        for number in range(3):
            print(f"text {number}: {client.embed(f'text {number}').shape}")
        # Only a caller knows whether a model may do a thing twice, should the connection break in the middle of it.
        print(client.infer("minilm_tokenizer", text=["a cat on a mat"], idempotent=True)["input_ids"])
    except TritonyardError as error:
        sys.exit(f"{type(error).__name__} after {error.attempts} attempts: {error}")
