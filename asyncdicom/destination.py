"""`Destination`: where a C-MOVE sends to, and how that application entity is called."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from asyncdicom.address import Address, check_ae_title
from asyncdicom.options import OPERATIONS, Limits, Timeouts

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = ["TIMEOUTS", "Destination", "as_destination"]

TIMEOUTS = ("connect_timeout", "acse_timeout", "dimse_timeout", "release_timeout")
"""The options of a destination that are seconds."""

_OF_A_SERVER = "PROTOCOL_TLS_SERVER"  # the name of its `ssl.SSLContext.protocol`


@dataclass(frozen=True)
class Destination:
    """A C-MOVE destination (PS3.4 C.4.2): its address, and how an association to it is opened.

    Raises ValueError for what is no address, AE title or number, and for a context that only servers can use.
    """

    address: Address | str
    """"AET@host:port" or "host:port"."""

    ssl: SSLContext | None = None
    """The context for TLS, made for clients. None: the one that the server was given for its destinations;
    if there is none either, the association is opened in the clear, unless the server itself uses TLS."""

    plain: bool = False
    """Whether it is called without TLS, by a server that uses TLS, too: then what is sent can be read and
    changed on the way. Not together with `ssl`."""

    server_hostname: str | None = None
    """The name that its certificate must have (default: the host of the address)."""

    calling_ae_title: str | None = None
    """Our AE title towards it (default: that of the server)."""

    called_ae_title: str | None = None
    """Its own AE title (default: the one that C-MOVE requests name it by)."""

    maximum_associations: int = 4
    """How many associations may be open to it; a further C-MOVE waits for its turn, at most 30 s."""

    associations: int = 1
    """How many associations one C-MOVE sends over, at most `maximum_associations`. More than one pays where
    the way to the destination is long; many applications want to be called once at a time."""

    operations_invoked: int = OPERATIONS
    """The Asynchronous Operations Window to propose (PS3.7 D.3.3.3): so many instances are under way, if the
    destination grants it. 1 proposes none."""

    connect_timeout: float | None = 10.0
    """Seconds for name resolution, TCP and TLS; None: for ever, as below."""

    acse_timeout: float | None = 30.0
    """Seconds for the answer to the A-ASSOCIATE-RQ."""

    dimse_timeout: float | None = 120.0
    """Seconds for each response."""

    release_timeout: float | None = 10.0
    """Seconds for the answer to the A-RELEASE-RQ; nobody waits for it."""

    where: Address = field(init=False, repr=False, compare=False)
    """`address`, parsed, with the AE title to call."""

    def __post_init__(self) -> None:
        where = Address.parse(self.address) if isinstance(self.address, str) else self.address
        if not isinstance(where, Address):
            raise TypeError(f"a destination has an Address or text, not {where!r}")
        for title in (self.calling_ae_title, self.called_ae_title):
            if title is not None:
                check_ae_title(title)
        if self.called_ae_title is not None:
            where = where._replace(ae_title=check_ae_title(self.called_ae_title))
        object.__setattr__(self, "where", where)
        if self.ssl is not None:
            _check_context(self.ssl)
            if self.plain:
                raise ValueError(f"{where}: a destination is called by TLS (ssl=) or without (plain=True)")
        for name in TIMEOUTS:
            seconds = getattr(self, name)
            if seconds is not None and not 0 < seconds < float("inf"):
                raise ValueError(f"{where}: {name} is a positive number of seconds, not {seconds}")
        fewest = min(self.maximum_associations, self.associations)
        if fewest < 1 or not 0 <= self.operations_invoked <= 65535:
            raise ValueError(f"{where}: at least one association, and a window from 0 (any number) to 65535")

    @property
    def timeouts(self) -> Timeouts:
        """Its time-outs, as `associate` takes them."""
        return Timeouts(
            connect=self.connect_timeout,
            acse=self.acse_timeout,
            dimse=self.dimse_timeout,
            release=self.release_timeout,
        )

    @property
    def window(self) -> int:
        """How many instances are under way on one association at most: any number (0) is bounded by ours."""
        return self.operations_invoked or OPERATIONS

    @property
    def limits(self) -> Limits:
        """Its operations window, as `associate` takes it; it is to ask nothing of us."""
        return Limits(operations_invoked=self.operations_invoked, operations_performed=1)

    def named(self, ae_title: str) -> Destination:
        """Give the destination as requests name it: it is called so unless it has a title of its own."""
        title = self.called_ae_title or check_ae_title(ae_title)
        return replace(self, address=self.where._replace(ae_title=title), called_ae_title=title)


def _check_context(context: object) -> None:
    protocol = getattr(context, "protocol", None)
    if protocol is None:
        raise TypeError(f"ssl= is an ssl.SSLContext, not {context!r}")
    if getattr(protocol, "name", "") == _OF_A_SERVER:
        raise ValueError(
            "the ssl context of a destination is one for clients, as ssl.create_default_context() gives it"
        )


def as_destination(where: Destination | Address | str) -> Destination:
    """Give a destination; an address, or its text, is one with nothing said about how it is called."""
    return where if isinstance(where, Destination) else Destination(where)
