"""Python functions that are named on the command line: `module:function`."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import click

__all__ = ["Named", "function_of", "named_of"]


class Named(NamedTuple):
    """A function, and how it was named."""

    name: str
    function: Callable[..., Any]


def function_of(context: click.Context, param: click.Parameter, text: str | None) -> Any:
    """Import a function by its name; the folder that the tool runs in is looked at last."""
    if text is None or context.resilient_parsing:  # a shell that completes runs nothing
        return None
    module, _, name = text.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        why = f"{error}" if isinstance(error, ImportError) else f"{module or 'it'} has no {name!r}"
        raise click.BadParameter(
            f"{text}: {why}; write it as module:function, and let $PYTHONPATH lead to the module"
        ) from None
    except Exception as error:
        raise click.BadParameter(
            f"{text}: {module} cannot be imported: {type(error).__name__}: {error}"
        ) from None
    if not callable(function):
        raise click.BadParameter(f"{text} is no function")
    return function


def named_of(context: click.Context, param: click.Parameter, text: str | None) -> Named | None:
    """Import a function that is called with one argument, and is a coroutine function or a plain one."""
    function = function_of(context, param, text)
    if function is None:
        return None
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise click.BadParameter(f"{text} is a generator: without yield it is called")
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise click.BadParameter(f"{text} cannot be called with one argument: {error}") from None
    except ValueError:  # nobody knows
        pass
    return Named(str(text), function)
