"""``asyncdicom storescp``: receive instances and save them as files."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import click

from asyncdicom.cli.number import Number
from asyncdicom.cli.options import EXIT_CODES, PORT, directory_options, server_options
from asyncdicom.cli.peer import Tls
from asyncdicom.cli.run import run, with_descriptors
from asyncdicom.cli.tool import Tool

if TYPE_CHECKING:
    from asyncdicom.cli.commands import Template
    from asyncdicom.cli.receiver import Receiver

_PREFIX = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]{0,63})?").fullmatch


@click.command(cls=Tool, habits_of="STORESCP", server=True, epilog=EXIT_CODES)
@click.argument("port", type=PORT)
@directory_options
@click.option(
    "-su",
    "--sort-on-study-uid",
    "study_prefix",
    metavar="PREFIX",
    help='A folder for each study, named PREFIX_STUDY-INSTANCE-UID ("": without a prefix).',
)
@click.option(
    "-xcr",
    "--exec-on-reception",
    "on_reception",
    metavar="COMMAND",
    help="Run a program for each instance that was kept, when it is answered. Placeholders are arguments of "
    "their own: #p the folder, #f the file, #p/#f its path, #a and #c the calling and called AE title, #r "
    "the peer's address. There is no shell.",
)
@click.option(
    "-xcs",
    "--exec-on-eostudy",
    "on_study",
    metavar="COMMAND",
    help="With -su: run a program for each study, when nothing more has come of it for a while (-tos); #f "
    "has no meaning there.",
)
@click.option(
    "-tos",
    "--eostudy-timeout",
    "patience",
    type=Number(whole=False),
    default=10,
    show_default=True,
    metavar="S",
    help="The while after which a study has ended.",
)
@click.option(
    "--exec-limit",
    type=Number(1),
    default=4,
    show_default=True,
    metavar="N",
    help="How many of these programs run at the same time; others wait.",
)
@click.option("+xi", "--implicit", "implicit", is_flag=True, help="Accept Implicit VR Little Endian only.")
@server_options("STORESCP")
def command(
    port: int,
    aet: str,
    host: str,
    output_directory: str | None,
    tls: Tls,
    study_prefix: str | None,
    on_reception: str | None,
    on_study: str | None,
    **options: Any,
) -> int:
    """Listen on PORT and save what is sent (C-STORE) as DICOM files, byte for byte as received.

    A file is named SOP-INSTANCE-UID.dcm and never replaced: other data under its UID get a name of their
    own. All storage SOP classes and transfer syntaxes are accepted. Ctrl-C ends it; SIGHUP reads the
    certificate files again.
    """
    if study_prefix is not None and not _PREFIX(study_prefix):
        raise click.UsageError(f"-su: {study_prefix!r} is no beginning of a name: letters, digits, . _ -")
    if on_study is not None and study_prefix is None:
        raise click.UsageError("-xcs: a study needs a folder of its own: add -su PREFIX")
    if output_directory is None and (on_reception or on_study or study_prefix is not None):
        raise click.UsageError("-xcr, -xcs and -su are about files, and --ignore saves none")
    options["on_reception"] = _template("-xcr", on_reception, "#p #f #a #c #r #p/#f")
    options["on_study"] = _template("-xcs", on_study, "#p #a #c #r")
    return run(lambda: _serve(port, aet, host, output_directory, tls, study_prefix, **options))


def _template(option: str, text: str | None, placeholders: str) -> Template | None:
    from asyncdicom.cli.commands import Template

    try:
        return None if text is None else Template.parse(text, placeholders=placeholders)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from None


def _performing(receiver: Receiver, implicit: bool) -> dict[str, Any]:
    """What `serve` is to offer."""
    from asyncdicom.cli.receiver import TAKEN
    from asyncdicom.services.storage import Storage
    from asyncdicom.uid import IMPLICIT_VR_LITTLE_ENDIAN

    if not implicit:
        return {"c_store": receiver, "contexts": TAKEN, "unknown_storage": True}
    storage = Storage(receiver)
    storage.sop_classes = TAKEN[1:]
    storage.transfer_syntaxes = (IMPLICIT_VR_LITTLE_ENDIAN,)
    return {"services": [storage]}


async def _serve(
    port: int,
    aet: str,
    host: str,
    directory: str | None,
    tls: Tls,
    study_prefix: str | None,
    *,
    on_reception: Template | None,
    on_study: Template | None,
    patience: float,
    exec_limit: int,
    implicit: bool,
    limits: dict[str, int],
    keep_incomplete: bool,
    as_json: bool,
    debug: bool,
) -> int:
    from asyncdicom.address import Address
    from asyncdicom.cli.commands import Executing
    from asyncdicom.cli.printing import Printer
    from asyncdicom.cli.receiver import receive_into
    from asyncdicom.cli.reloading import reload_with
    from asyncdicom.cli.traced import trace_of
    from asyncdicom.options import Limits
    from asyncdicom.running import serve_until_stopped
    from asyncdicom.server import serve

    async with AsyncExitStack() as stack:
        printer = stack.enter_context(Printer(as_json=as_json))
        executing = await stack.enter_async_context(Executing(on_reception, on_study, patience, exec_limit))
        receiver = receive_into(
            directory,
            printer=printer if as_json else None,
            keep_incomplete=keep_incomplete,
            study_prefix=study_prefix,
            on_kept=executing.kept,
        )
        server = await stack.enter_async_context(
            serve(
                Address(aet, host, port),
                **_performing(receiver, implicit),
                ssl=tls.server(),
                limits=with_descriptors(Limits(**limits)),
                trace=trace_of(debug),
            )
        )

        def ready() -> None:
            if not as_json:
                where = "nothing is saved" if directory is None else f"saving in {directory}"
                printer.line(f"{aet} listens on {Address(aet, host, server.port).place}, {where}")

        reload = reload_with(tls.server, lambda context: server.renew(ssl=context))
        return await serve_until_stopped(server, on_reload=[reload], on_ready=ready)
