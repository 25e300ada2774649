"""A client of a running server whose errors are a user's: sentences, and no traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

from ensembles.errors import YardError
from tritonyard import Client, TritonyardError


@contextmanager
def connected(url: str, timeout: float | None = None) -> Iterator[Client]:
    """Give a client of the server at `url`; `timeout` in seconds, None leaves it to the client.

    Raises YardError for every error of the client's.
    """
    try:
        with Client(url) if timeout is None else Client(url, timeout=timeout) as client:
            yield client
    except TritonyardError as error:
        raise YardError(str(error)) from error
