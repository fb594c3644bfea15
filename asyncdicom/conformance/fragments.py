"""Table V: presentation data values, fragments, messages (PS3.8 Annex E)."""

from __future__ import annotations

from .build import (
    ABORT,
    APPLICATION,
    COMMAND,
    CONTEXT,
    DATA,
    IMPLICIT,
    LAST,
    PROCEDURAL_EVENT_LOGGING,
    RELEASE_RQ,
    STORE_CONTEXT,
    USER,
    abstract,
    attributes,
    command,
    echo,
    echo_fields,
    implicit_data,
    message,
    p_data,
    pdu,
    pdv,
    proposed,
    rq,
    store,
    store_fields,
    transfer,
    uid,
)
from .case import ABORTED, ESTABLISHED, STORED, Case

_ONE_OR_MORE = "PS3.8 9.3.5: a P-DATA-TF holds one or more presentation data values"
_HEADER = "PS3.8 9.3.5.1: its length counts the context ID and the control header, 2 bytes"
_INSIDE = "PS3.8 9.3.5.1: presentation data values fill their P-DATA-TF exactly"
_CONTEXT = "PS3.8 7.6: P-DATA goes in an accepted presentation context"
_ORDER = "PS3.8 E.1: a command, then the data set it announced; messages do not interleave"
_SAME = "PS3.8 E.1: all fragments of a message go in one presentation context"
_EMPTY = (
    "PS3.8 E.1 wants fragments without a byte neither sent nor refused; no progress is no reason to go on"
)
_SEVERAL = "PS3.8 E.1 keeps messages apart; here they are whole and one after another"

_ECHO = command(echo_fields())
_HALF = len(_ECHO) // 2


def _data(case: str) -> bytes:
    return implicit_data(attributes(case))


def _store_rq(case: str) -> bytes:
    return message(STORE_CONTEXT, command(store_fields(uid(case))))


_ONE_REJECTED = rq(
    APPLICATION, CONTEXT, proposed(3, abstract(PROCEDURAL_EVENT_LOGGING), transfer(IMPLICIT)), USER
)
_ODD = _data("V-12")

# fmt: off
CASES = (
    Case("V-01", "a P-DATA-TF without a presentation data value", ESTABLISHED, pdu(4, b""), "abort 2 6",
         ABORTED, _ONE_OR_MORE),
    Case("V-02a", "a PDV of length 0", ESTABLISHED, p_data(pdv(1, COMMAND | LAST, b"", 0)), "abort 2 6",
         ABORTED, _HEADER),
    Case("V-02b", "a PDV of length 1", ESTABLISHED, p_data(pdv(1, COMMAND | LAST, b"", 1)), "abort 2 6",
         ABORTED, _HEADER),
    Case("V-03a", "a PDV that ends behind its P-DATA-TF", ESTABLISHED,
         p_data(pdv(1, COMMAND | LAST, _ECHO, len(_ECHO) + 12)), "abort 2 6", ABORTED, _INSIDE),
    Case("V-03b", "a PDV of length FFFFFFFFH", ESTABLISHED, p_data(pdv(1, COMMAND | LAST, _ECHO, 0xFFFFFFFF)),
         "abort 2 6", ABORTED, _INSIDE),
    Case("V-04a", "4 bytes behind the last PDV", ESTABLISHED, p_data(pdv(1, COMMAND | LAST, _ECHO), bytes(4)),
         "abort 2 6", ABORTED, _INSIDE),
    Case("V-04b", "1 byte behind the last PDV", ESTABLISHED, p_data(pdv(1, COMMAND | LAST, _ECHO), bytes(1)),
         "abort 2 6", ABORTED, _INSIDE),
    Case("V-05a", "a context that was not proposed", ESTABLISHED, echo(context_id=99), "abort 2 6", ABORTED,
         _CONTEXT),
    Case("V-05b", "an even context ID", ESTABLISHED, echo(context_id=2), "abort 2 6", ABORTED, _CONTEXT),
    Case("V-05c", "a context that was rejected", ESTABLISHED, echo(context_id=3), "abort 2 6", ABORTED,
         _CONTEXT, request=_ONE_REJECTED),
    Case("V-06", "all bits of the message control header set", ESTABLISHED, p_data(pdv(1, 0xFF, _ECHO)),
         STORED, ABORTED, "PS3.8 E.2: bits 2 to 7 are sent as 0"),
    Case("V-07", "a data set without a command", ESTABLISHED, p_data(pdv(STORE_CONTEXT, DATA | LAST, b"ab")),
         "abort 2 5", ABORTED, _ORDER, needs=STORE_CONTEXT),
    Case("V-08", "a command inside a data set", ESTABLISHED,
         _store_rq("V-08")
         + p_data(pdv(STORE_CONTEXT, DATA, _data("V-08")[:20]), pdv(1, COMMAND | LAST, _ECHO)),
         "abort 2 5", ABORTED, _ORDER, needs=STORE_CONTEXT),
    Case("V-09a", "a command that goes on in another context", ESTABLISHED,
         p_data(pdv(1, COMMAND, _ECHO[:_HALF]), pdv(STORE_CONTEXT, COMMAND | LAST, _ECHO[_HALF:])),
         "abort 2 6", ABORTED, _SAME, needs=STORE_CONTEXT),
    Case("V-09b", "a data set in another context than its command", ESTABLISHED,
         _store_rq("V-09b") + p_data(pdv(1, DATA | LAST, _data("V-09b"))), "abort 2 6", ABORTED, _SAME,
         needs=STORE_CONTEXT),
    Case("V-10", "two whole messages in one P-DATA-TF", ESTABLISHED,
         p_data(pdv(1, COMMAND | LAST, _ECHO), pdv(1, COMMAND | LAST, command(echo_fields(2)))),
         "status 0000, status 0000, goes on", ABORTED, _SEVERAL),
    Case("V-11", "a command and its data set in one P-DATA-TF", ESTABLISHED,
         p_data(pdv(STORE_CONTEXT, COMMAND | LAST, command(store_fields(uid("V-11")))),
                pdv(STORE_CONTEXT, DATA | LAST, _data("V-11"))),
         STORED, "", "PS3.8 E.1 allows it", needs=STORE_CONTEXT),
    Case("V-12", "fragments of odd length", ESTABLISHED,
         _store_rq("V-12") + p_data(pdv(STORE_CONTEXT, DATA, _ODD[:33]))
         + p_data(pdv(STORE_CONTEXT, DATA | LAST, _ODD[33:])),
         STORED, ABORTED, "PS3.8 E.1 wants an even length; nothing depends on it", needs=STORE_CONTEXT),
    Case("V-13a", "ten fragments without a byte", ESTABLISHED,
         p_data(pdv(1, COMMAND, b"")) * 10 + p_data(pdv(1, COMMAND | LAST, _ECHO)), STORED, ABORTED, _EMPTY),
    Case("V-13b", "5,000 fragments without a byte", ESTABLISHED,
         p_data(pdv(1, COMMAND, b"")) * 5000 + p_data(pdv(1, COMMAND | LAST, _ECHO)), "abort 2 6",
         f"{ABORTED} | {STORED}", _EMPTY),
    Case("V-13c", "the last fragment has no byte", ESTABLISHED,
         p_data(pdv(1, COMMAND, _ECHO)) + p_data(pdv(1, COMMAND | LAST, b"")), STORED, ABORTED,
         "PS3.8 E.1: seen in the field"),
    Case("V-14", "a command of 1 MiB that does not end", ESTABLISHED,
         p_data(pdv(1, COMMAND, bytes(4000))) * 262, "abort 2 6", ABORTED,
         "PS3.7 6.3.1 sets no limit; no command has more than some 100 bytes"),
    Case("V-15", "a data set where the command announced none", ESTABLISHED,
         echo() + p_data(pdv(1, DATA | LAST, b"ab")), "abort 2 5 | status 0000, abort 2 5", ABORTED,
         "PS3.7 E.1: Command Data Set Type 0101H"),
    Case("V-16", "silence where a data set was announced", ESTABLISHED, _store_rq("V-16"), "abort 0 0",
         f"{ABORTED} | closed", "PS3.7 7.5 leaves the time to us", needs=STORE_CONTEXT, slow=True),
    Case("V-17a", "A-RELEASE-RQ inside a message", ESTABLISHED,
         _store_rq("V-17a") + p_data(pdv(STORE_CONTEXT, DATA, _data("V-17a")[:40])) + RELEASE_RQ,
         "released | abort 2 2", ABORTED, "PS3.8 7.2: the partial object is thrown away",
         needs=STORE_CONTEXT),
    Case("V-17b", "A-ABORT inside a message", ESTABLISHED,
         _store_rq("V-17b") + p_data(pdv(STORE_CONTEXT, DATA, _data("V-17b")[:40])) + ABORT, "closed", "",
         "PS3.8 7.3: the partial object is thrown away", needs=STORE_CONTEXT),
    Case("V-18", "a data set that ends twice", ESTABLISHED,
         store("V-18") + p_data(pdv(STORE_CONTEXT, DATA | LAST, b"ab")), "abort 2 5 | status 0000, abort 2 5",
         ABORTED, _ORDER, needs=STORE_CONTEXT),
    Case("V-19", "a data set in fragments of 2 bytes, each in its own P-DATA-TF", ESTABLISHED,
         store("V-19", size=2), STORED, "", "PS3.8 E.1", needs=STORE_CONTEXT),
)
# fmt: on
