"""A function's formula as data beside it: audits hold functions against formulas, and theorems against those."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])


def closed_form(**form: object) -> Callable[[_Function], _Function]:
    """Declare the formula that a function computes; it is its attribute ``form`` from then on.

    Pools say ``mean="power", r=1``, softenings ``family="power"``, recursion steps ``mean="arithmetic"``. An ellipsis
    is the keyword argument of the same name.

    >>> @closed_form(mean="power", r=...)
    ... def power(logprobs, log_weights, *, r): ...
    >>> form_of(functools.partial(power, r=0.5))
    {'mean': 'power', 'r': 0.5}
    """

    def declare(function: _Function) -> _Function:
        vars(function)["form"] = form
        return function

    return declare


def form_of(operator: object) -> Mapping[str, Any]:
    """Return the formula that an operator declares, with the options of a ``functools.partial``; empty if none."""
    form, given = getattr(operator, "form", None), {}
    if isinstance(operator, functools.partial):
        form, given = form or getattr(operator.func, "form", None), operator.keywords
    if not isinstance(form, Mapping):
        return {}
    return {name: given.get(name) if value is ... else value for name, value in form.items()}
