"""``asyncdicom storescu``: send files and folders."""

from __future__ import annotations

import click

from asyncdicom.cli.options import EPILOG, peer_options
from asyncdicom.cli.peer import Peer
from asyncdicom.cli.run import FAILED, OK, run


@click.command(epilog=EPILOG)
@click.option(
    "--associations",
    type=click.IntRange(1),
    default=1,
    metavar="N",
    help="Send over N associations at a time.",
)
@click.option(
    "--operations",
    type=click.IntRange(1, 65535),
    default=1,
    metavar="N",
    help="Have N operations outstanding on each association, if the peer grants an Asynchronous "
    "Operations Window.",
)
@peer_options("STORESCU", more="FILE...")
def command(peer: Peer, arguments: tuple[str, ...], associations: int, operations: int, as_json: bool) -> int:
    """Send DICOM files, and those in folders, to PEER (C-STORE).

    \b
    asyncdicom storescu PACS@10.0.0.5:104 study/ image.dcm
    asyncdicom storescu --associations 4 --operations 16 10.0.0.5 104 study/

    Files are sent as they are encoded. What cannot be sent is named, and the rest is sent.
    """
    if not arguments:
        raise click.UsageError("say which files or folders to send after PEER")
    return run(lambda: _store(peer, arguments, associations, operations, as_json))


async def _store(
    peer: Peer, arguments: tuple[str, ...], associations: int, operations: int, as_json: bool
) -> int:
    from asyncdicom.cli.files import find_files, read_heads
    from asyncdicom.cli.sending import Sending
    from asyncdicom.services.contexts import groups_for_contexts

    sending = Sending(peer, associations, operations, as_json=as_json)
    sources = await read_heads(find_files(arguments), sending.unreadable)
    try:
        await sending.send(groups_for_contexts(sources))
    finally:
        sending.report()
    return FAILED if sending.failed else OK
