"""What can go wrong between a repository and a ready server."""

from ensembles.errors import YardError


class ServingError(YardError):
    """The server cannot start, or never became ready."""

    exit_code = 4
