"""Call models by their own tensors: numpy arrays and lists in, numpy arrays out, here the steps of an ensemble.

python any_model.py http://127.0.0.1:8000 "a cat on a mat" "a feline on a rug"
"""

import sys

import numpy as np

from tritonyard import Client, InvalidRequest

url, *texts = sys.argv[1:]

with Client(url) as client:
    tokens = client.infer("minilm_tokenizer", text=texts)  # a list of str is BYTES [n, 1]
    counts = tokens.pop("num_input_tokens")
    print("tokens:", counts.ravel().tolist())

    # Names, datatypes and shapes are the server's own. What does not fit them is not even sent.
    try:
        client.infer("minilm_encoder", inputs={**tokens, "input_ids": tokens["input_ids"].astype(np.int32)})
    except InvalidRequest as error:
        print(error)

    states = client.infer("minilm_encoder", inputs=tokens)
    for name, array in {**tokens, **states}.items():
        print(f"{name}: {array.dtype} {array.shape}")
