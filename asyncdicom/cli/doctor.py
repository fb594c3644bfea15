"""``asyncdicom doctor``: what is wrong between here and a peer, and what to change on which side."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import click

from asyncdicom.cli.options import EPILOG, PORT, peer_options, receiving_host
from asyncdicom.cli.output import json_text
from asyncdicom.cli.peer import Peer
from asyncdicom.cli.run import FAILED, NO_ASSOCIATION, OK, run
from asyncdicom.cli.tool import Tool

if TYPE_CHECKING:
    from asyncdicom.doctor.causes import Finding
    from asyncdicom.doctor.subject import Subject

_SERVICES = ("echo", "store", "find", "get", "move")
_SIDES = {"here": "here", "peer": "at the peer", "network": "in the network"}


@click.command(cls=Tool, habits_of="DOCTOR", epilog=EPILOG)
@click.option(
    "--service",
    "services",
    multiple=True,
    type=click.Choice(_SERVICES),
    help="Only this one has to be offered (repeat it for more); by default all of them.",
)
@click.option("--study", metavar="UID", help="The study to try with; by default the first that is found.")
@click.option("+P", "--port", type=PORT, help="Try C-MOVE: receive here, on this port, as -aet.")
@receiving_host
@peer_options("DOCTOR")
def command(
    peer: Peer,
    services: tuple[str, ...],
    study: str | None,
    port: int | None,
    host: str,
    as_json: bool,
) -> int:
    """Find out what is wrong between here and PEER, and what to change on which side.

    \b
    asyncdicom doctor PACS@10.0.0.5:104 -aet ME
    asyncdicom doctor PACS@10.0.0.5:104 -aet ME --port 11113 --host 0.0.0.0
    asyncdicom doctor STORE@10.0.0.5:104 --service echo --service store

    It goes through host name, TCP, TLS, association, AE titles, presentation contexts, C-ECHO, C-FIND, C-GET
    and C-MOVE. Nothing is changed at PEER: one image is sent here, and thrown away. Exit code 0: nothing is
    wrong.
    """
    wanted = _Wanted(services or _SERVICES, study, port, host)
    return run(lambda: _examine(peer, wanted, as_json))


class _Wanted(NamedTuple):
    services: tuple[str, ...]
    study: str | None
    port: int | None
    host: str


async def _subject(peer: Peer, wanted: _Wanted) -> Subject:
    from asyncdicom.address import Address
    from asyncdicom.doctor.subject import Subject
    from asyncdicom.scu.listening import only

    receiver, why = None, "no receiver: add --port, which the peer has to know as that of our AE title"
    if wanted.port is not None:
        receiver = Address(peer.calling_ae_title, wanted.host, wanted.port)
        if any(peer.tls) and peer.tls.identity is None:
            receiver, why = None, "a peer that is asked by TLS sends by TLS, too: add +tls KEY CERT"
    return Subject(
        address=peer.address,
        services=wanted.services,
        study=wanted.study,
        receiver=receiver,
        no_receiver=why,
        receiver_ssl=peer.tls.server(),
        access=await only(peer.address) if receiver is not None else None,
        **peer.options(),
    )


async def _examine(peer: Peer, wanted: _Wanted, as_json: bool) -> int:
    from contextlib import aclosing

    from asyncdicom.cli.printing import show
    from asyncdicom.doctor.examine import WAY, examine

    subject = await _subject(peer, wanted)
    failed: list[Finding] = []
    code = OK
    async with aclosing(examine(subject)) as findings:
        async for finding in findings:
            await show(json_text(_fields(finding)) if as_json else _text(finding))
            if finding.result == "failed":
                failed.append(finding)
                code = max(code, NO_ASSOCIATION if finding.step in WAY else FAILED)
    names = ", ".join(finding.detail for finding in failed)
    if as_json:
        await show(json_text({"peer": str(peer.address), "failed": len(failed), "exit_code": code}))
    else:
        await show(f"{peer.address}: {names or 'nothing is wrong'}")
    return code


def _fields(finding: Finding) -> dict[str, object]:
    fields = {name: value for name, value in finding._asdict().items() if name != "cause"}
    if finding.cause is not None:
        found = finding.cause
        fields |= {"cause": found.name, "why": found.why, "change": found.change, "side": found.side}
    return fields


def _text(finding: Finding) -> str:
    line = f"{finding.step:12} {finding.result:8} {finding.detail}"
    if finding.cause is None:
        return line
    space = " " * 22
    found = finding.cause
    return f"{line}\n{space}why: {found.why}\n{space}change {_SIDES[found.side]}: {found.change}"
