"""Table T: what becomes of the connection."""

from __future__ import annotations

from .build import STORE_CONTEXT, echo, rq, store
from .case import ACCEPTED, AWAITING_REQUEST, ESTABLISHED, Case, Do

_LOST = "PS3.8 Table 9-10, Evt17: the association is over, and others are served"

# fmt: off
CASES = (
    Case("T-01a", "a reset inside the A-ASSOCIATE-RQ", AWAITING_REQUEST,
         (rq()[:60], Do.RESET, Do.RECONNECT, rq()), ACCEPTED, "", _LOST),
    Case("T-01b", "a reset inside a data set", ESTABLISHED,
         (store("T-01b")[:-20], Do.RESET, Do.RECONNECT, rq()), ACCEPTED, "", _LOST, needs=STORE_CONTEXT),
    Case("T-02", "half-closed behind a request", ESTABLISHED, (echo(), Do.HALF_CLOSE), "status 0000, closed",
         "closed", "RFC 9293 3.6: what was asked for can still be answered; many see an end in it"),
    Case("T-05", "a TLS ClientHello on the plain port, and no more", AWAITING_REQUEST, b"\x16\x03\x01",
         "abort 0 0", "closed | silence", "PS3.8 Table 9-10, Sta2: no PDU type begins with 16H"),
)
# fmt: on
