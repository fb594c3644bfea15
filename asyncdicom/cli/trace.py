"""``asyncdicom trace``: a proxy that shows the conversation of two others, decoded, with times."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from asyncdicom.address import DEFAULT_PORT, Address
from asyncdicom.cli.number import Number
from asyncdicom.cli.options import EXIT_CODES, output_options
from asyncdicom.cli.output import json_text
from asyncdicom.cli.run import FAILED, run

if TYPE_CHECKING:
    from asyncdicom.cli.printing import Printer


@click.command(epilog=EXIT_CODES)
@click.option(
    "--listen", required=True, metavar="[HOST:]PORT", help="Where to listen; without HOST, on 127.0.0.1."
)
@click.option("--to", "target", required=True, metavar="HOST:PORT", help="The peer that is meant.")
@click.option("--values", is_flag=True, help="Show the values of data sets, of patients, too.")
@click.option(
    "--pcap",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write all that passes, also of patients, to a new FILE that Wireshark opens.",
)
@click.option("--connections", type=Number(1), metavar="N", help="End after so many; by default at Ctrl-C.")
@output_options
def command(
    listen: str,
    target: str,
    values: bool,
    pcap: str | None,
    connections: int | None,
    as_json: bool,
    debug: bool,
) -> int:
    """Pass on a conversation untouched, and show it: messages, times, gaps and what they mean.

    \b
    asyncdicom trace --listen 11113 --to 10.0.0.5:104
    asyncdicom trace --listen 0.0.0.0:11113 --to 10.0.0.5:104 --pcap wire.pcap

    Have the requestor call this computer instead of the peer. AE titles, UIDs, statuses and sizes are
    shown, and nothing of patients. What cannot be understood is told and passed on. TLS is passed on, and
    cannot be read: see --trace of the other tools.
    """
    where = _address(listen, "--listen", "127.0.0.1")
    peer = _address(target, "--to", None)
    return run(lambda: _trace(where, peer, values, pcap, connections, as_json))


def _address(text: str, option: str, host: str | None) -> Address:
    if host is not None and text.isdigit():
        text = f"{host}:{text}"
    try:
        address = Address.parse(text, DEFAULT_PORT)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from None
    return address


def teller(printer: Printer, as_json: bool) -> Callable[[str, dict[str, object]], None]:
    """What shows the lines of a `Recorder`."""
    if as_json:
        return lambda text, fields: printer.line(json_text(fields))
    return lambda text, fields: printer.line(text)


async def _trace(
    listen: Address,
    target: Address,
    values: bool,
    pcap: str | None,
    connections: int | None,
    as_json: bool,
) -> int:
    from asyncdicom.cli.printing import Printer
    from asyncdicom.running import serve_until_stopped
    from asyncdicom.tracing.proxy import Proxy
    from asyncdicom.tracing.recorder import Capture, Recorder

    with ExitStack() as stack:
        capture = None
        if pcap is not None:
            capture = Capture(pcap)
            stack.callback(capture.close)
        printer = stack.enter_context(Printer(as_json=as_json))
        recorder = Recorder(teller(printer, as_json), values=values, capture=capture)
        proxy = Proxy(listen, target, recorder, most=connections)
        await proxy.start()

        def ready() -> None:
            place = listen._replace(port=proxy.port).place
            told = f"{place} passes on to {target.place}"
            printer.line(json_text({"event": "listening", "port": proxy.port}) if as_json else told)

        code = await serve_until_stopped(proxy, on_ready=ready)
        return FAILED if capture is not None and capture.failed else code
