"""``asyncdicom movescu``: have a peer send instances to a destination, or to ourselves."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import click

from asyncdicom.cli.options import (
    AE_TITLE,
    EPILOG,
    PORT,
    directory_options,
    key_options,
    peer_options,
    receiving_host,
)
from asyncdicom.cli.peer import Peer
from asyncdicom.cli.run import run
from asyncdicom.cli.tool import Tool
from asyncdicom.telemetry.log import Log

if TYPE_CHECKING:
    from asyncdicom.cli.keys import Wanted
    from asyncdicom.cli.receiver import Receiver


log = Log("asyncdicom.cli")


@click.command(cls=Tool, habits_of="MOVESCU", epilog=EPILOG)
@key_options()
@click.option(
    "-aem",
    "--move",
    "aem",
    type=AE_TITLE,
    metavar="AET",
    help="The destination: an AE title that PEER knows.",
)
@click.option("+P", "--port", type=PORT, help="Receive here, on this port; -aem is then -aet by default.")
@receiving_host
@directory_options
@peer_options("MOVESCU")
def command(
    peer: Peer,
    model: str | None,
    level: str | None,
    keys: tuple[str, ...],
    aem: str | None,
    port: int | None,
    host: str,
    output_directory: str | None,
    keep_incomplete: bool,
    as_json: bool,
) -> int:
    """Have PEER send instances to a destination (C-MOVE).

    \b
    asyncdicom movescu PACS@10.0.0.5:104 -aem WORKSTATION -k StudyInstanceUID=1.2.3
    asyncdicom movescu PACS@10.0.0.5:104 -aet ME --port 11113 --host 0.0.0.0 -od in -k StudyInstanceUID=1.2.3

    PEER has to know the address of the destination: with --port, that -aem is this host and port.
    """
    from asyncdicom.cli.keys import wanted

    if aem is None and port is None:
        raise click.UsageError("say where to send: -aem AET, or --port to receive here")
    query = wanted(model, level, keys, retrieve=True)
    receiver = None
    if port is not None:
        receiver = _receiver(peer, host, query, output_directory, keep_incomplete=keep_incomplete)
    destination = aem or peer.calling_ae_title
    return run(lambda: _move(peer, query, destination, host, port, receiver, as_json))


def _receiver(
    peer: Peer, host: str, query: Wanted, output_directory: str | None, *, keep_incomplete: bool
) -> Receiver:
    """Make what receives here. Who has it sent elsewhere loads nothing of it."""
    from asyncdicom.cli.receiver import receive_into
    from asyncdicom.scu.listening import is_loopback

    if is_loopback(host) and not is_loopback(peer.address.host):
        log.warning("listening on %s, where %s cannot connect to: see --host", host, peer.address)
    if any(peer.tls) and peer.tls.identity is None:
        raise click.UsageError(
            "PEER is asked by TLS, so what it sends is received by TLS, too: add +tls KEY CERT"
        )
    # It should be our AE title (PS3.7 9.1.1.1.8); pynetdicom, for one, names that of the C-MOVE SCP.
    originators = (peer.calling_ae_title, peer.address.ae_title)
    return receive_into(
        output_directory,
        keep_incomplete=keep_incomplete,
        asked=query.identifier,
        move_originators=originators,
    )


async def _move(
    peer: Peer,
    query: Wanted,
    destination: str,
    host: str,
    port: int | None,
    receiver: Receiver | None,
    as_json: bool,
) -> int:
    from asyncdicom.cli.retrieval import report, retrieve
    from asyncdicom.status import Status

    async with AsyncExitStack() as stack:
        if port is not None:
            from asyncdicom.address import Address
            from asyncdicom.cli.receiver import TAKEN
            from asyncdicom.scu.listening import only
            from asyncdicom.server import serve  # who sends it elsewhere serves nothing

            ours = Address(destination, host, port)
            options = peer.options()
            receiving = serve(
                ours,
                c_store=receiver,
                contexts=TAKEN,
                unknown_storage=True,
                access=await only(peer.address),
                ssl=peer.tls.server(),
                limits=peer.limits,
                trace=options.get("trace"),
            )
            await stack.enter_async_context(receiving)
        association = await stack.enter_async_context(peer.associate([query.sop_class("move")]))
        result = await retrieve(
            association.c_move(query.identifier, information_model=query.model, move_destination=destination)
        )
    if result.status == Status.MOVE_DESTINATION_UNKNOWN:
        log.warning("%s has no address for the AE title %s: it has to be told", peer.address, destination)
    return report([result], receiver, as_json)
