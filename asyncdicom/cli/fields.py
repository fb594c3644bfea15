"""Command-line options that are fields of `Timeouts` and `Limits`, with their defaults, checks and help."""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise
from typing import Any

import click

from asyncdicom.options import Limits, Timeouts, of_role

__all__ = ["FieldOption", "documentation"]


class FieldOption(click.Option):
    """An option for the field `field` of `of`; a time of 0 is for ever (None)."""

    def __init__(
        self,
        declarations: list[str],
        *,
        of: type[Timeouts] | type[Limits],
        field: str,
        requestor: bool,
        **attributes: Any,
    ) -> None:
        default = of_role(getattr(of, field), requestor=requestor)
        super().__init__(declarations, default=default, show_default=True, **attributes)
        self._of = of
        self._field = field

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """Convert and check it; raises ``click.BadParameter``."""
        converted = super().process_value(ctx, value)
        if self._of is Timeouts and converted == 0:
            converted = None
        try:
            self._of(**{self._field: converted})
        except (TypeError, ValueError) as error:
            raise click.BadParameter(str(error), ctx, self) from None
        return converted

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Give what ``--help`` shows: the first sentence about the field."""
        sentence = documentation(self._of).get(self._field, "").partition("\n")[0]
        if self._of is Timeouts:
            sentence = f"{sentence.removesuffix('.')} (0: for ever)."
        self.help = sentence
        return super().get_help_record(ctx)


def documentation(of: type) -> dict[str, str]:
    """What is written below each field of a class; nothing if the source is not there."""
    try:
        statements = ast.parse(inspect.getsource(of)).body[0].body  # type: ignore[attr-defined]
    except OSError:
        return {}
    found = {}
    for field, text in pairwise(statements):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            found[ast.unparse(field.target)] = inspect.cleandoc(str(ast.literal_eval(text.value)))
    return found
