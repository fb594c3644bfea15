"""``asyncdicom echoscu``: is the peer there?"""

from __future__ import annotations

import time

import click

from asyncdicom.cli.number import Number
from asyncdicom.cli.options import EPILOG, peer_options
from asyncdicom.cli.output import json_text, response_fields, said
from asyncdicom.cli.peer import Peer
from asyncdicom.cli.run import FAILED, OK, run
from asyncdicom.cli.tool import Tool


@click.command(cls=Tool, habits_of="ECHOSCU", epilog=EPILOG)
@click.option("--repeat", type=Number(1), default=1, metavar="N", help="Send N requests.")
@click.option("--abort", is_flag=True, help="End with an abort instead of a release.")
@peer_options("ECHOSCU")
def command(peer: Peer, repeat: int, abort: bool, as_json: bool) -> int:
    """Verify that PEER answers: C-ECHO."""
    return run(lambda: _echo(peer, repeat, abort, as_json))


async def _echo(peer: Peer, repeat: int, abort: bool, as_json: bool) -> int:
    from asyncdicom.cli.printing import show

    code = OK
    async with peer.associate(["1.2.840.10008.1.1"]) as association:
        for _ in range(repeat):
            start = time.perf_counter()
            response = await association.c_echo()
            seconds = time.perf_counter() - start
            fields = {
                "peer": str(peer.address),
                **response_fields(response),
                "seconds": round(seconds, 6),
            }
            text = f"{peer.address}: {said(response)} in {seconds * 1e3:.1f} ms"
            await show(json_text(fields) if as_json else text)
            if not response.status.is_success:
                code = FAILED
        if abort:
            await association.abort()
    return code
