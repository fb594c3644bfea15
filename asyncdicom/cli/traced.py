"""``--trace`` of the tools that associate: shows their conversations as ``asyncdicom trace`` does others'."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from asyncdicom.net.channel import Trace

__all__ = ["TRACE_OPTIONS", "trace_of"]

_META = "asyncdicom.trace."


def _keep(context: click.Context, param: click.Parameter, value: Any) -> None:
    context.meta[f"{_META}{param.name}"] = value


TRACE_OPTIONS = [
    click.option(
        "--trace",
        "trace",
        is_flag=True,
        expose_value=False,
        callback=_keep,
        help="Show on stderr what passes: messages, times, gaps and what they mean; nothing of patients.",
    ),
    click.option(
        "--trace-values",
        is_flag=True,
        expose_value=False,
        callback=_keep,
        help="With --trace: the values of data sets, of patients, too.",
    ),
    click.option(
        "--trace-pcap",
        type=click.Path(dir_okay=False),
        expose_value=False,
        callback=_keep,
        metavar="FILE",
        help="Write all that passes, also of patients and inside TLS, to a new FILE that Wireshark opens.",
    ),
]


def trace_of(debug: bool) -> Trace | None:
    """Give the `trace` for `associate` and `serve` that the command line asks for. Raises OSError.

    It is made once in a run of a tool, and ends with it.
    """
    context = click.get_current_context(silent=True)
    meta = {} if context is None else context.meta
    chosen: Trace | None = None
    if debug:
        from asyncdicom.cli.dump import trace

        chosen = trace
    if context is None or not (meta.get(f"{_META}trace") or meta.get(f"{_META}trace_pcap")):
        return chosen
    if f"{_META}tap" not in meta:
        meta[f"{_META}tap"] = _tap(context, chosen)
    made: Trace = meta[f"{_META}tap"]
    return made


def _tap(context: click.Context, dump: Trace | None) -> Trace:
    from asyncdicom.cli.printing import Printer
    from asyncdicom.tracing.recorder import Capture, Recorder
    from asyncdicom.tracing.tap import Tap

    meta = context.meta
    capture = None
    if meta.get(f"{_META}trace_pcap"):
        capture = Capture(meta[f"{_META}trace_pcap"])
        context.call_on_close(capture.close)
    tell: Any = _nothing
    if meta.get(f"{_META}trace"):
        printer = Printer(stream="stderr")
        context.call_on_close(printer.close)

        def tell(text: str, fields: dict[str, object]) -> None:
            printer.line(text)

    return Tap(Recorder(tell, values=bool(meta.get(f"{_META}trace_values")), capture=capture), dump)


def _nothing(text: str, fields: dict[str, object]) -> None:
    """Show nothing."""
