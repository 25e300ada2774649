"""The texts that requests are made of: the shipped sentences, or a user's own file. One text a line, in UTF-8."""

import functools
from pathlib import Path

from ensembles.errors import YardError

SENTENCES = Path(__file__).parent.parent / "texts" / "sentences.txt"


class TextsError(YardError):
    """A file of texts cannot be used."""

    exit_code = 2


@functools.cache
def read_texts(path: Path) -> tuple[str, ...]:
    """Return the texts of `path`, without empty lines.

    Raises TextsError: it is missing, not UTF-8, or holds none.
    """
    try:
        texts = tuple(line for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except FileNotFoundError:
        raise TextsError(f"{path} does not exist; `file` is a path from the scenario's folder") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TextsError(f"{path} cannot be read: {error}; give a text file in UTF-8, one text a line") from None
    if not texts:
        raise TextsError(f"{path} holds no text; give one a line")
    return texts


def sentences() -> tuple[str, ...]:
    """Return the shipped English sentences, 5 to 100 words each."""
    return read_texts(SENTENCES)
