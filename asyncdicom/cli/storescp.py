"""``asyncdicom storescp``: receive instances and save them as files."""

from __future__ import annotations

from typing import Any

import click

from asyncdicom.cli.options import EXIT_CODES, PORT, directory_options, server_options
from asyncdicom.cli.peer import Tls
from asyncdicom.cli.run import run, with_descriptors


@click.command(epilog=EXIT_CODES)
@click.argument("port", type=PORT)
@directory_options
@server_options("STORESCP")
def command(port: int, aet: str, host: str, output_directory: str | None, tls: Tls, **options: Any) -> int:
    """Listen on PORT and save what is sent (C-STORE) as DICOM files, byte for byte as received.

    A file is named SOP-INSTANCE-UID.dcm and never replaced: other data under its UID get a name of their
    own. All storage SOP classes and transfer syntaxes are accepted. Ctrl-C ends it; SIGHUP reads the
    certificate files again.
    """
    return run(lambda: _serve(port, aet, host, output_directory, tls, **options))


async def _serve(
    port: int,
    aet: str,
    host: str,
    directory: str | None,
    tls: Tls,
    *,
    limits: dict[str, int],
    keep_incomplete: bool,
    as_json: bool,
    debug: bool,
) -> int:
    from asyncdicom.address import Address
    from asyncdicom.cli.dump import trace
    from asyncdicom.cli.printing import Printer
    from asyncdicom.cli.receiver import Receiver
    from asyncdicom.cli.reloading import reload_with
    from asyncdicom.options import Limits
    from asyncdicom.running import serve_until_stopped
    from asyncdicom.server import serve

    with Printer(as_json=as_json) as printer:
        receiver = Receiver(directory, printer=printer if as_json else None, keep_incomplete=keep_incomplete)
        async with serve(
            Address(aet, host, port),
            c_store=receiver,
            unknown_storage=True,
            ssl=tls.server(),
            limits=with_descriptors(Limits(**limits)),
            trace=trace if debug else None,
        ) as server:

            def ready() -> None:
                if not as_json:
                    where = "nothing is saved" if directory is None else f"saving in {directory}"
                    printer.line(f"{aet} listens on {Address(aet, host, server.port).place}, {where}")

            reload = reload_with(tls.server, lambda context: server.renew(ssl=context))
            return await serve_until_stopped(server, on_reload=[reload], on_ready=ready)
