"""Find the lines of a file that mean what a question asks, by the embeddings that embed_file.py has made.

python search.py http://127.0.0.1:8000 texts.txt "How do I log in again?"
"""

import sys
from pathlib import Path

import numpy as np

from tritonyard import Client

url, path, question = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
lines = path.read_text().splitlines()
embeddings = np.load(path.with_suffix(".npy"))

with Client(url, model="minilm") as client:
    (asked,) = client.embed(question)

# The embeddings of minilm have length 1: a scalar product is the cosine.
cosines = embeddings @ asked
for line in np.argsort(-cosines)[:3]:
    print(f"{cosines[line]:.2f}  {lines[line]}")
