"""``asyncdicom peers``: the names that peers have here."""

from __future__ import annotations

import click

from asyncdicom.cli.named import peers_file, read_peers
from asyncdicom.cli.output import json_line
from asyncdicom.cli.run import EXIT_CODES, FAILED, OK, complain
from asyncdicom.telemetry.text import printable


@click.command(epilog=EXIT_CODES)
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def command(names: tuple[str, ...], as_json: bool) -> int:
    """List the peers that have a name, which every tool takes as its PEER.

    \b
    They stand in one file, ~/.config/asyncdicom/peers.toml or that of $ASYNCDICOM_PEERS:
        pacs = "ARCHIVE@10.0.0.5:104"
        ris  = "RIS@10.0.0.6:104"
    asyncdicom findscu pacs -k PatientID=123
    """
    peers = read_peers()
    missing = [name for name in names if name not in peers]
    if missing:
        return complain("asyncdicom peers", f"{peers_file()} has no {', '.join(missing)}", FAILED)
    shown = {name: peers[name] for name in names or sorted(peers)}
    if not shown:
        return complain("asyncdicom peers", f'none yet: write NAME = "AET@host:port" into {peers_file()}', OK)
    width = max(map(len, shown))
    for name, address in shown.items():
        if as_json:
            json_line(name=name, ae_title=address.ae_title, host=address.host, port=address.port)
        else:
            print(f"{printable(name):{width}}  {address}")
    return OK
