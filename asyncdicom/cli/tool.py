"""`Tool`: the click command of a tool that takes what people are used to from DCMTK's."""

from __future__ import annotations

from typing import Any

import click

__all__ = ["Tool"]


class Tool(click.Command):
    """A command that also has the habits (`habits.habits`) of the tool with this AE title by default.

    There are up to a hundred of them, and few command lines have one: they are made for those only.
    """

    def __init__(self, *arguments: Any, habits_of: str, server: bool = False, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self._habits_of = habits_of
        self._is_server = server
        self._knows_habits = False

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click. What is no option of its own may be a habit, or a mistake that is like one."""
        own = {name for param in self.params for name in param.opts}
        if any(word[:1] in ("-", "+") and word.partition("=")[0] not in own for word in args):
            self.learn_habits()
        return super().parse_args(ctx, args)

    def learn_habits(self) -> None:
        """Have the habits among `params`."""
        if not self._knows_habits:
            from asyncdicom.cli.habits import habits  # only made when it is needed, as said above

            self._knows_habits = True
            self.params += habits(self._habits_of, server=self._is_server)
