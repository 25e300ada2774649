"""Embed every line of a file, into a numpy file beside it.

python embed_file.py grpc://127.0.0.1:8001 texts.txt
"""

import sys
from pathlib import Path

import numpy as np

from tritonyard import Client

url, path = sys.argv[1], Path(sys.argv[2])
lines = path.read_text().splitlines()

with Client(url, model="minilm") as client:
    # Any number of texts in one call: here an hour at most for all of them, and too long ones are cut.
    embeddings = client.embed(lines, truncate=True, timeout=3600)

np.save(path.with_suffix(".npy"), embeddings)
print(f"{path.with_suffix('.npy')}: {embeddings.dtype} {embeddings.shape}")
