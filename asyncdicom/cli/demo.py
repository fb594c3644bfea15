"""asyncdicom demo: a radiologist's work-flow on real images, told step by step."""

from __future__ import annotations

import logging
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asyncdicom.cli.logs import set_up_logging
from asyncdicom.cli.run import OK, run

if TYPE_CHECKING:
    from asyncdicom import Address, Association, FileSource, Request, Status
    from asyncdicom.services.contexts import Proposable
    from asyncdicom.services.request import StoreHandler

__all__ = ["command"]

_ARCHIVE, _SCANNER, _WORKSTATION = "ARCHIVE", "SCANNER", "WORKSTATION"
_FILES = ("CT_small.dcm", "MR_small.dcm")


@click.command("demo")
@click.option("--keep", "folder", metavar="DIR", help="Keep the archive and the received files in DIR.")
def command(folder: str | None) -> int:
    """Start an archive and play echo, store, find, get and move against it, with explanations."""
    set_up_logging(logging.ERROR, None, "short")  # what is refused is told as a part of the story
    if folder is not None:
        return run(lambda: _play(Path(folder)))
    with tempfile.TemporaryDirectory(prefix="asyncdicom-demo-") as temporary:
        return run(lambda: _play(Path(temporary)))


def _say(title: str, text: str = "", *lines: str) -> None:
    click.secho(f"\n{title}", bold=True)
    if text:
        click.echo(textwrap.fill(" ".join(text.split()), 88, initial_indent="  ", subsequent_indent="  "))
    for line in lines:
        click.secho(f"    {line}", fg="green")


def _samples() -> list[Path]:
    import pydicom

    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    return [folder / name for name in _FILES]


async def _play(folder: Path) -> int:
    from asyncdicom import Address, file_source, serve
    from asyncdicom.archive import Archive
    from asyncdicom.archive.dimse import serve_archive

    received = folder / "workstation"
    received.mkdir(parents=True, exist_ok=True)
    files = [file_source(path) for path in _samples()]

    async def keep(request: Request) -> Status:
        from asyncdicom import Status, safe_name

        path = received / f"{safe_name(request.affected_sop_instance_uid)}.dcm"
        size = await request.data.save(path)
        origin = request.command.move_originator_ae_title
        because = f", asked for by {origin} with C-MOVE" if origin else ""
        click.secho(f"    {_WORKSTATION} <- {path.name} ({size:,} bytes{because})", fg="cyan")
        return Status.SUCCESS

    async with (
        serve(f"{_WORKSTATION}@127.0.0.1:0", c_store=keep) as workstation,
        Archive(folder / "archive") as archive,
    ):
        known = {_WORKSTATION: Address(_WORKSTATION, "127.0.0.1", workstation.port)}
        async with serve_archive(archive, f"{_ARCHIVE}@127.0.0.1:0", access={"*": None, **known}) as server:
            address = Address(_ARCHIVE, "127.0.0.1", server.port)
            _say(
                "The nodes",
                """Every DICOM node has an AE title, a host and a port. Here an archive (PACS) and a
                workstation listen on this machine. The archive knows where the workstation is; that
                will matter for C-MOVE.""",
                f"{address}   files and index in {folder / 'archive'}",
                f"{known[_WORKSTATION]}",
            )
            await _scanner(address, files)
            await _radiologist(address, files, keep)
            counts = await archive.counts()
    _say(
        "The end",
        """Every association was released, and the archive was closed. Next: run 'asyncdicom qrscp' and try
        the tools against it, or read the jobs in the README.""",
        f"{counts['patient']} patients, {counts['study']} studies, {counts['instance']} instances",
    )
    return OK


async def _scanner(address: Address, files: list[FileSource]) -> None:
    from asyncdicom import VERIFICATION, associate, storage_contexts
    from asyncdicom.uid import name_of, transfer_syntax

    contexts: list[Proposable] = [VERIFICATION, *storage_contexts(files)]
    async with associate(address, calling_ae_title=_SCANNER, contexts=contexts) as association:
        _say(
            "1. The scanner opens an association",
            """It proposes presentation contexts: what it wants to do (the abstract syntax) and how the
            data would be encoded (transfer syntaxes). The archive accepts or refuses each of them.""",
            *(
                f"context {context.context_id}: {name_of(context.abstract_syntax)}, "
                f"{transfer_syntax(context.transfer_syntax).name}"
                for context in association.contexts.values()
            ),
        )
        response = await association.c_echo()
        _say(
            "2. C-ECHO: are you there?",
            "The ping of DICOM: if it succeeds, network, AE titles and negotiation are right.",
            f"-> status {response.status}",
        )
        _say(
            "3. C-STORE: keep these images",
            """Each image is one message, sent as it is encoded. The archive answers Success when the image
            is safely on its disk and in its index.""",
        )
        for file in files:
            response = await association.c_store(file)
            click.secho(f"    {name_of(file.sop_class_uid)} {file.sop_instance_uid}", fg="green")
            click.secho(f"    -> status {response.status}", fg="green")
    _say("4. The scanner releases the association", "Nothing more to send: an orderly end, not an abort.")


async def _radiologist(address: Address, files: list[FileSource], keep: StoreHandler) -> None:
    from asyncdicom import STUDY_ROOT, associate, retrieval_contexts

    pairs = [(file.sop_class_uid, file.transfer_syntax_uid) for file in files]
    contexts: list[Proposable] = [STUDY_ROOT, *retrieval_contexts(pairs)]
    async with associate(address, calling_ae_title=_WORKSTATION, contexts=contexts) as association:
        keys = {
            "QueryRetrieveLevel": "STUDY",
            "PatientName": "*",
            "StudyDate": "",
            "ModalitiesInStudy": "",
            "NumberOfStudyRelatedInstances": "",
            "StudyInstanceUID": "",
        }
        studies = await association.c_find(keys)
        _say(
            "5. C-FIND: which studies are there?",
            """The workstation sends an identifier: some keys with a value to match (here PatientName *),
            the others empty, to be filled in. Each match comes as a Pending response, the end as Success.""",
            *(
                f"{study.PatientName}  {study.StudyDate}  {study.ModalitiesInStudy}  "
                f"{study.NumberOfStudyRelatedInstances} image  {study.StudyInstanceUID}"
                for study in studies
            ),
        )
        _say(
            "6. C-GET: send me the first one, here",
            """The images come back on this very association, as C-STORE requests of the archive: for these
            the roles are turned round, which was negotiated when it was opened.""",
        )
        study = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": studies[0].StudyInstanceUID}
        result = await association.c_get(study, c_store=keep)
        click.secho(f"    -> status {result.status}, {result.completed} completed", fg="green")
        _say(
            "7. C-MOVE: send the second one to WORKSTATION",
            """C-MOVE names only an AE title. The archive looks its address up in its own table (an unknown
            title is refused with A801H), opens a second association to it, and stores the images there.
            Nothing arrives? Then the title is unknown, its address is wrong, or nobody listens there.""",
        )
        study = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": studies[1].StudyInstanceUID}
        result = await association.c_move(study, move_destination=_WORKSTATION)
        click.secho(f"    -> status {result.status}, {result.completed} completed", fg="green")
        refused = await _unknown_destination(association, study)
        click.secho(f"    to NOBODY -> status {refused}", fg="yellow")


async def _unknown_destination(association: Association, study: dict[str, str]) -> Status:
    from asyncdicom import StatusError

    try:
        return (await association.c_move(study, move_destination="NOBODY")).status
    except StatusError as error:
        return error.status
