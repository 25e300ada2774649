"""Talk to a model in the terminal. Its answer appears as it is written; Ctrl-C ends the answer, Ctrl-D the talk.

python chat.py grpc://127.0.0.1:8001
"""

import sys

from tritonyard import Client, TritonyardError

(url,) = sys.argv[1:]
talk: list[dict[str, str]] = []

with Client(url, model="smollm2", timeout=120) as client:
    while True:
        try:
            talk.append({"role": "user", "content": input("> ")})
        except EOFError:
            break
        answer = client.chat(talk, max_tokens=200, stream=True)
        try:
            for delta in answer:
                print(delta.text, end="", flush=True)
        except KeyboardInterrupt:
            pass  # leaving the loop has cancelled the request on the server
        except TritonyardError as error:
            print(f"\n{error}")
        talk.append({"role": "assistant", "content": answer.text})
        print(f"\n[{answer.usage.output_tokens} tokens; {answer.finish_reason or 'cut short'}]")
