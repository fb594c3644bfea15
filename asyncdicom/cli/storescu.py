"""``asyncdicom storescu``: send files and folders."""

from __future__ import annotations

import click

from asyncdicom.cli.number import Number
from asyncdicom.cli.options import EPILOG, peer_options
from asyncdicom.cli.peer import Peer
from asyncdicom.cli.run import FAILED, OK, complain, run
from asyncdicom.cli.tool import Tool
from asyncdicom.options import OPERATIONS


@click.command(cls=Tool, habits_of="STORESCU", epilog=EPILOG)
@click.option(
    "--associations",
    type=Number(1),
    default=1,
    metavar="N",
    help="Send over N associations at a time.",
)
@click.option(
    "--operations",
    type=Number(1, 65535),
    metavar="N",
    help=f"Have N operations outstanding on each association (default: {OPERATIONS}), if the peer grants an "
    "Asynchronous Operations Window; 1 asks for none.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Also send what is a DICOMDIR, and count what is no DICOM file as failed, in folders, too.",
)
@peer_options("STORESCU", more="FILE...")
def command(
    peer: Peer,
    arguments: tuple[str, ...],
    associations: int,
    operations: int | None,
    strict: bool,
    as_json: bool,
) -> int:
    """Send DICOM files, and those in folders, to PEER (C-STORE).

    \b
    asyncdicom storescu PACS@10.0.0.5:104 study/ image.dcm
    asyncdicom storescu --associations 4 10.0.0.5 104 study/

    Files are sent as they are encoded; uncompressed ones that PEER does not take so, as Explicit or Implicit
    VR Little Endian. What cannot be sent is named, and the rest is sent. In folders, a DICOMDIR and what is
    plainly no DICOM file are skipped. Exit code 1 also if nothing is found to send.
    """
    if not arguments:
        raise click.UsageError("say which files or folders to send after PEER")
    return run(lambda: _store(peer, arguments, associations, operations, strict, as_json))


async def _store(
    peer: Peer,
    arguments: tuple[str, ...],
    associations: int,
    operations: int | None,
    strict: bool,
    as_json: bool,
) -> int:
    from asyncdicom.cli.sending import Sending
    from asyncdicom.scu.files import find_files, read_heads
    from asyncdicom.services.contexts import groups_for_contexts

    sending = Sending(peer, associations, operations, as_json=as_json)
    found = await read_heads(find_files(arguments), sending.unreadable, named=arguments, strict=strict)
    sending.skipped = found.skipped
    try:
        await sending.send(groups_for_contexts(found.sources))
    finally:
        sending.report()
    if not found.sources and not sending.failed:
        return complain("asyncdicom storescu", f"no DICOM file to send in {', '.join(arguments)}", FAILED)
    return FAILED if sending.failed else OK
