"""What a step answers to a request that it does not take."""


class Refusal(Exception):
    """One request is refused; the message is the caller's answer, with Triton's code INVALID_ARG."""

    def __init__(self, message):
        # JSON may quote half of a surrogate pair, which Triton cannot send.
        super().__init__(message.encode(errors="backslashreplace").decode())


def utf8(value, name):
    """Return the bytes `value` as text; raise Refusal that names `name` and the place of the first bad byte."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refusal(
            f"{name} is not UTF-8: byte 0x{value[error.start]:02x} at position {error.start}; encode it as UTF-8"
        ) from error
