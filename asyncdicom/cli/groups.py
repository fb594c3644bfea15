"""A tool with commands of its own, as click's group is, but for its help."""

from __future__ import annotations

import click

__all__ = ["Group"]

_LONGEST = 1000  # characters of a sentence


class Group(click.Group):
    """A group whose help tells the whole first sentence of each command, where click cuts it off."""

    group_class = type

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Tell who has left out what stands before the command."""
        before = [each for each in self.params if isinstance(each, click.Argument)]
        is_first = bool(args) and args[0] in self.commands
        known = self.commands.keys() | {"-h", "--help"}
        if before and is_first and not known & set(args[1:]) and not ctx.resilient_parsing:
            what = before[0].make_metavar(ctx)
            raise click.UsageError(f"{what} is missing: write {ctx.command_path} {what} {args[0]}")
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands below one another, each with as many lines as it needs."""
        found = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        rows = [(name, each.get_short_help_str(_LONGEST)) for name, each in found if each is not None]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
