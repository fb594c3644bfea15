"""``asyncdicom completion``: what bash, zsh and fish need to complete our command lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

import click

from asyncdicom.cli.named import read_peers
from asyncdicom.cli.run import EXIT_CODES, OK

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from asyncdicom.address import Address

__all__ = ["VARIABLE", "command", "complete"]

VARIABLE = "_ASYNCDICOM_COMPLETE"
"""The environment variable by which a shell asks: `bash_complete`."""

_NAME = "asyncdicom"
_Complete = Callable[[click.Context, str], "list[CompletionItem]"]


@click.command(epilog=EXIT_CODES)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> int:
    """Print what completes tools, options, files and the names of peers in SHELL.

    \b
    bash: echo 'eval "$(asyncdicom completion bash)"' >> ~/.bashrc
    zsh:  echo 'eval "$(asyncdicom completion zsh)"' >> ~/.zshrc   (after compinit)
    fish: asyncdicom completion fish > ~/.config/fish/completions/asyncdicom.fish
    """
    from click.shell_completion import BashComplete, FishComplete, ZshComplete

    kind = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}[shell]
    click.echo(kind(click.Group(_NAME), {}, _NAME, VARIABLE).source(), nl=False)
    return OK


def complete(tools: Mapping[str, str], instruction: str) -> int:
    """Answer a shell that asks how a command line goes on; gives the exit code.

    `tools`: what there is, by name.
    """
    from click.shell_completion import shell_complete

    return shell_complete(_Tools(tools), {}, _NAME, VARIABLE, instruction)


class _Tools(click.Group):
    """All tools; only the one that is asked for is imported."""

    def __init__(self, tools: Mapping[str, str]) -> None:
        super().__init__(_NAME)
        self._tools = tools

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See `click.Group`."""
        if cmd_name not in self._tools:
            return None
        tool: click.Command = import_module(f"asyncdicom.cli.{cmd_name}").command
        _teach(tool)
        return tool

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """See `click.Group`."""
        from click.shell_completion import CompletionItem

        words = {**self._tools, "--help": "list the tools", "--version": "tell the version"}
        return [
            CompletionItem(word, help=what)
            for word, what in words.items()
            if word.startswith(incomplete) and (incomplete or not word.startswith("-"))
        ]


def _teach(tool: click.Command) -> None:
    """Have the parameters completed that click knows to be text only."""
    for parameter in tool.params:
        found = _BY_NAME.get(parameter.name or "") or _BY_METAVAR.get(getattr(parameter, "metavar", "") or "")
        if found is not None:
            setattr(parameter, "shell_complete", _for(parameter, found))  # noqa: B010
    for each in getattr(tool, "commands", {}).values():
        _teach(each)


def _for(parameter: click.Parameter, complete: Callable[..., Iterable[CompletionItem]]) -> _Complete:
    return lambda context, incomplete: list(complete(context, parameter, incomplete))


def _named(context: click.Context, parameter: click.Parameter, incomplete: str) -> Iterable[CompletionItem]:
    """Give the peers that have a name."""
    from click.shell_completion import CompletionItem

    return [
        CompletionItem(name, help=str(address))
        for name, address in sorted(_peers().items())
        if name.startswith(incomplete)
    ]


def _peer_and_files(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> Iterable[CompletionItem]:
    """Give peers for the first argument, then files where the tool takes some."""
    if not context.params.get(parameter.name or ""):
        return _named(context, parameter, incomplete)
    takes_files = "FILE" in (getattr(parameter, "metavar", "") or "")
    return _files(context, parameter, incomplete) if takes_files else []


def _ae_titles(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> Iterable[CompletionItem]:
    """Give the AE titles of the peers that have a name."""
    from click.shell_completion import CompletionItem

    titles = sorted({address.ae_title for address in _peers().values()})
    return [CompletionItem(title) for title in titles if title.startswith(incomplete)]


def _keywords(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> Iterable[CompletionItem]:
    """Give keywords of elements."""
    from click.shell_completion import CompletionItem
    from pydicom.datadict import keyword_dict

    start = incomplete.rpartition(".")[0]  # within a sequence
    start = f"{start}." if start else ""
    return [
        CompletionItem(start + keyword)
        for keyword in sorted(keyword_dict)
        if keyword and (start + keyword).startswith(incomplete)
    ]


def _files(context: click.Context, parameter: click.Parameter, incomplete: str) -> Iterable[CompletionItem]:
    """Let the shell find files."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def _folders(context: click.Context, parameter: click.Parameter, incomplete: str) -> Iterable[CompletionItem]:
    """Let the shell find folders."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="dir")]


def _peers() -> Mapping[str, Address]:
    try:
        return read_peers()
    except click.UsageError:  # whoever uses the file is told what is wrong with it
        return {}


# What is completed, by the name of a parameter or by its metavar.
_BY_NAME = {"arguments": _peer_and_files, "names": _named, "keys": _keywords}
_BY_METAVAR = {"AET": _ae_titles, "FILE": _files, "DIR": _folders}
