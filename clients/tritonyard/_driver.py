"""Carries a call's steps out, waiting for each on the caller's own thread or task."""

from collections.abc import Awaitable, Callable
from typing import Any

from tritonyard._endpoints import Carrier
from tritonyard._policy import Answered, Step, Steps

Do = Callable[[Any], Any]
AsyncDo = Callable[[Any], Awaitable[Any]]


def advanced(steps: Steps[Carrier], step: Step[Carrier], do: Do) -> Step[Carrier]:
    """Do `step` and return the next one."""
    try:
        outcome = do(step)
    except BaseException as error:
        return steps.throw(error)
    return steps.send(outcome)


def until_answered(steps: Steps[Carrier], step: Step[Carrier], do: Do) -> Any:
    """Do `step` and what follows; return the answer."""
    while not isinstance(step, Answered):
        step = advanced(steps, step, do)
    return step.answer


def carried_out(steps: Steps[Carrier], step: Step[Carrier], do: Do) -> Any:
    """Do `step` and what follows to the end; return the answer."""
    answer = until_answered(steps, step, do)
    next(steps, None)
    return answer


async def async_until_answered(steps: Steps[Carrier], step: Step[Carrier], do: AsyncDo) -> Any:
    """Do `step` and what follows; return the answer."""
    while not isinstance(step, Answered):
        try:
            outcome = await do(step)
        except BaseException as error:
            step = steps.throw(error)
        else:
            step = steps.send(outcome)
    return step.answer


async def async_carried_out(steps: Steps[Carrier], step: Step[Carrier], do: AsyncDo) -> Any:
    """Do `step` and what follows to the end; return the answer."""
    answer = await async_until_answered(steps, step, do)
    next(steps, None)
    return answer
