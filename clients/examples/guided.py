"""Read facts out of a text: the answer follows a JSON schema, so that it is sure to be read by json.loads.

python guided.py grpc://127.0.0.1:8001 "Ann, 34, lives in Leeds."
"""

import json
import sys

from tritonyard import Client

url, text = sys.argv[1:]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "town": {"enum": ["Leeds", "Lyon", "Lima", "elsewhere"]},
    },
    "required": ["name", "age", "town"],
    "additionalProperties": False,
}
ASK = f"Who is this? Answer as JSON with name, age and town.\n{text}"

with Client(url, model="smollm2", timeout=120) as client:
    answer = client.chat([{"role": "user", "content": ASK}], json_schema=SCHEMA, log_probs=True, max_tokens=80)

# Only what is cut short by max_tokens is no JSON.
if answer.finish_reason != "stop":
    sys.exit(f"cut short: {answer.text}")
for name, value in json.loads(answer.text).items():
    print(f"{name}: {value!r}")
doubtful = min(answer.log_probs or (), key=lambda token: token.log_prob)
print(f"least sure of {doubtful.token!r}")
