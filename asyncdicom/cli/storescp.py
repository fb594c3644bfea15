"""``asyncdicom storescp``: receive instances and save them as files."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from asyncdicom.cli.functions import named_of
from asyncdicom.cli.number import Number
from asyncdicom.cli.options import EXIT_CODES, PORT, directory_options, server_options
from asyncdicom.cli.peer import Tls
from asyncdicom.cli.run import run, with_descriptors
from asyncdicom.cli.tool import Tool

if TYPE_CHECKING:
    from asyncdicom.cli.commands import Template, Wanted
    from asyncdicom.cli.functions import Named
    from asyncdicom.cli.receiver import Receiver
    from asyncdicom.scu.folders import FolderTemplate

_PREFIX = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]{0,63})?").fullmatch


@click.command(cls=Tool, habits_of="STORESCP", server=True, epilog=EXIT_CODES)
@click.argument("argument", type=PORT, required=False, metavar="PORT")
@click.option("--port", type=PORT, hidden=True)  # as the other tools have it
@directory_options
@click.option(
    "-su",
    "--sort-on-study-uid",
    "study_prefix",
    metavar="PREFIX",
    help='A folder for each study, named PREFIX_STUDY-INSTANCE-UID ("": without a prefix).',
)
@click.option(
    "--folder-template",
    "template",
    metavar="TEMPLATE",
    help="Folders by what instances say: {PatientID}/{StudyInstanceUID}/{SeriesNumber:04}; also {calling} "
    "and {called}. What cannot be a name as it is gets a part of its digest at its end; what is missing is "
    "no-KEYWORD.",
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
    help="Run a program for each study, when nothing more has come of it for a while (-tos); #f has no "
    "meaning there. A study needs a folder: -su, or {StudyInstanceUID} in the template.",
)
@click.option(
    "--on-stored",
    metavar="MODULE:FUNCTION",
    callback=named_of,
    help="Call a Python function with each asyncdicom.ReceivedInstance before that is answered: with the "
    "status that it returns, Success for None, 0xC000 if it fails. A plain one runs in a thread.",
)
@click.option(
    "--on-stable",
    metavar="MODULE:FUNCTION",
    callback=named_of,
    help="As -xcs: call a Python function with each asyncdicom.ReceivedStudy.",
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
    help="How many of these programs and functions run at the same time; others wait.",
)
@click.option("+xi", "--implicit", "implicit", is_flag=True, help="Accept Implicit VR Little Endian only.")
@server_options("STORESCP")
def command(
    argument: int | None,
    port: int | None,
    aet: str,
    host: str,
    output_directory: str | None,
    tls: Tls,
    study_prefix: str | None,
    template: str | None,
    on_reception: str | None,
    on_study: str | None,
    on_stored: Named | None,
    on_stable: Named | None,
    **options: Any,
) -> int:
    """Listen on PORT and save what is sent (C-STORE) as DICOM files, byte for byte as received.

    A file is named SOP-INSTANCE-UID.dcm and never replaced: other data under its UID get a name of their
    own. All storage SOP classes and transfer syntaxes are accepted. Ctrl-C ends it; SIGHUP reads the
    certificate files again.
    """
    port = argument if port is None else port
    if port is None:
        raise click.UsageError("Missing argument 'PORT'")
    folders = _folders(study_prefix, template)
    if (on_study or on_stable) and not (folders and folders.depth_of_study):
        option = "-xcs" if on_study else "--on-stable"
        raise click.UsageError(
            f"{option}: a study needs a folder of its own: add -su PREFIX, or {{StudyInstanceUID}} to the "
            "template"
        )
    from asyncdicom.cli.commands import Wanted

    wanted = Wanted(
        _template("-xcr", on_reception, "#p #f #a #c #r #p/#f"),
        _template("-xcs", on_study, "#p #a #c #r"),
        on_stored,
        on_stable,
    )
    if output_directory is None and (any(wanted) or folders):
        raise click.UsageError(
            "-xcr, -xcs, --on-stored, --on-stable, -su and --folder-template are about files, and --ignore "
            "saves none"
        )
    return run(partial(_serve, port, aet, host, output_directory, tls, folders, wanted, **options))


def _folders(study_prefix: str | None, template: str | None) -> FolderTemplate | None:
    """Where files are put."""
    from asyncdicom.scu.folders import FolderTemplate

    if study_prefix is not None and template is not None:
        raise click.UsageError("-su is a template itself: write its prefix into --folder-template")
    if study_prefix is not None:
        if not _PREFIX(study_prefix):
            raise click.UsageError(f"-su: {study_prefix!r} is no beginning of a name: letters, digits, . _ -")
        return FolderTemplate.of_study(study_prefix)
    try:
        return None if template is None else FolderTemplate(template)
    except ValueError as error:
        raise click.UsageError(f"--folder-template: {error}") from None


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
    folders: FolderTemplate | None,
    wanted: Wanted,
    *,
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
        executing = await stack.enter_async_context(Executing(wanted, patience, exec_limit))
        receiver = receive_into(
            directory,
            printer=printer if as_json else None,
            keep_incomplete=keep_incomplete,
            folders=folders,
            on_stored=executing.stored,
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
