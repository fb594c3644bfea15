"""``asyncdicom getscu``: retrieve on the association that asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from asyncdicom.cli.options import EPILOG, directory_options, key_options, peer_options
from asyncdicom.cli.peer import Peer
from asyncdicom.cli.run import run
from asyncdicom.cli.tool import Tool
from asyncdicom.exceptions import AssociationAborted
from asyncdicom.telemetry.log import Log

if TYPE_CHECKING:
    from asyncdicom.cli.keys import Wanted
    from asyncdicom.cli.receiver import Receiver

log = Log("asyncdicom.cli")


@click.command(cls=Tool, habits_of="GETSCU", epilog=EPILOG)
@key_options()
@directory_options
@peer_options("GETSCU")
def command(
    peer: Peer,
    model: str | None,
    level: str | None,
    keys: tuple[str, ...],
    output_directory: str | None,
    keep_incomplete: bool,
    as_json: bool,
) -> int:
    """Retrieve instances from PEER (C-GET) and save them as DICOM files.

    \b
    asyncdicom getscu PACS@10.0.0.5:104 -od in -k StudyInstanceUID=1.2.3

    PEER is asked first (C-FIND) which SOP classes and transfer syntaxes there are; if it does not
    tell, the usual ones are proposed. Files are named SOP-INSTANCE-UID.dcm; none is replaced, and what was
    not asked for is refused.
    """
    from asyncdicom.cli.keys import wanted
    from asyncdicom.cli.receiver import receive_into

    query = wanted(model, level, keys, retrieve=True)
    receiver = receive_into(output_directory, keep_incomplete=keep_incomplete, asked=query.identifier)
    return run(lambda: _get(peer, query, receiver, as_json))


async def _get(peer: Peer, query: Wanted, receiver: Receiver, as_json: bool) -> int:
    from asyncdicom.cli.retrieval import report, retrieve
    from asyncdicom.endings import Endings
    from asyncdicom.scu.planning import divide, find_instances
    from asyncdicom.services.contexts import expand, retrieval_contexts

    results = []
    async with Endings() as endings:
        try:
            async with peer.associate([query.sop_class("find")], endings=endings) as association:
                found = await find_instances(association, query)
        except AssociationAborted as error:  # some abort what they do not answer
            log.info("the peer does not tell what there is (%s): proposing a list of usual contexts", error)
            found = []
        for share in divide(found, query):
            contexts = [*expand([query.sop_class("get")]), *retrieval_contexts(share.pairs)]
            async with peer.associate(contexts, endings=endings, c_store=receiver) as association:
                for identifier in share.identifiers:
                    operation = association.c_get(identifier, information_model=query.model)
                    results.append(await retrieve(operation))
        return report(results, receiver, as_json)
