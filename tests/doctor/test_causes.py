"""What is judged without a network: errors and statuses lead to a cause with advice."""

from __future__ import annotations

import errno
import ssl

import pytest

from asyncdicom.doctor.causes import (
    CAUSES,
    Probed,
    cause_of_association,
    cause_of_connection,
    cause_of_error,
    cause_of_move,
    cause_of_status,
    cause_of_tls,
    is_about_titles,
)
from asyncdicom.exceptions import (
    AssociationAborted,
    AssociationClosed,
    AssociationError,
    AssociationRejected,
    AssociationTimeout,
    DicomNetworkError,
    PresentationContextError,
    StatusError,
)
from asyncdicom.services.responses import Response
from asyncdicom.status import Status


@pytest.mark.parametrize("name", CAUSES)
def test_every_cause_says_why_and_what_to_change(name: str) -> None:
    found = CAUSES[name]
    assert found.name == name
    assert found.side in ("here", "peer", "network")
    assert len(found.why) > 20
    assert len(found.change) > 15


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "wrong port"),
        (TimeoutError(), "firewall"),
        (OSError(errno.ETIMEDOUT, "timed out"), "firewall"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "no route"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "connection broken"),
    ],
)
def test_connections(error: OSError, name: str) -> None:
    assert cause_of_connection(error).name == name


def verification(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, "as OpenSSL says"
    return error


def alert(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (verification(10), "expired certificate"),
        (verification(9), "certificate not yet valid"),
        (verification(62), "wrong host name"),
        (verification(64), "wrong host name"),
        (verification(18), "untrusted certificate"),
        (verification(23), "revoked certificate"),
        (verification(3), "revocation list"),
        (verification(99), "certificate refused"),
        (alert("TLSV13_ALERT_CERTIFICATE_REQUIRED"), "client certificate"),
        (alert("SSLV3_ALERT_HANDSHAKE_FAILURE"), "TLS refused"),
        (alert("WRONG_VERSION_NUMBER"), "no TLS"),
        (ConnectionResetError(), "TLS refused"),
        (TimeoutError(), "no TLS"),
    ],
)
def test_handshakes(error: OSError, name: str) -> None:
    assert cause_of_tls(error, Probed()).name == name


def test_who_speaks_dicom_in_the_clear_wants_no_tls() -> None:
    assert cause_of_tls(alert("WRONG_VERSION_NUMBER"), Probed(dicom=True)).name == "TLS here only"


def closed(by: Exception | None = None) -> AssociationClosed:
    error = AssociationClosed("closed")
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (AssociationRejected(1, 1, 1), "rejected without a reason"),
        (AssociationRejected(1, 1, 2), "other version"),
        (AssociationRejected(1, 1, 3), "unknown caller"),
        (AssociationRejected(1, 1, 7), "wrong called AE title"),
        (AssociationRejected(2, 3, 1), "peer at its limit"),
        (AssociationRejected(2, 3, 2), "peer at its limit"),
        (AssociationRejected(9, 9, 9), "rejected without a reason"),
        (AssociationTimeout("silence", which="acse"), "no answer"),
        (AssociationTimeout("silence", which="connect"), "firewall"),
        (AssociationAborted(2, 1), "aborted"),
        (AssociationAborted(2, 1, "is this HTTP?"), "other application"),
        (closed(), "closed without a word"),
        (closed(ConnectionResetError()), "closed without a word"),
        (closed(alert("TLSV13_ALERT_CERTIFICATE_REQUIRED")), "client certificate"),
    ],
)
def test_associations(error: AssociationError, name: str) -> None:
    assert cause_of_association(error, Probed(tls=False)).name == name


def test_who_speaks_tls_wants_it() -> None:
    assert cause_of_association(closed(), Probed(tls=True)).name == "TLS at the peer only"
    assert cause_of_association(AssociationRejected(1, 1, 1), Probed(tls=True)).name != "TLS at the peer only"


def test_which_rejections_are_about_titles() -> None:
    assert is_about_titles(AssociationRejected(1, 1, 7))
    assert not is_about_titles(AssociationRejected(1, 1, 1))
    assert not is_about_titles(closed())


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (0xA801, "unknown move destination"),
        (0x0124, "not authorized"),
        (0x0122, "no context"),
        (0xA700, "out of resources"),
        (0xA900, "operation refused"),
        (0xC001, "operation refused"),
    ],
)
def test_statuses(status: int, name: str) -> None:
    found = cause_of_status(Status(status), "the comment")
    assert found.name == name
    assert "the comment" in found.why


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (StatusError(Response(0xA700)), "out of resources"),
        (PresentationContextError("was not accepted"), "no context"),
        (AssociationTimeout("late", which="dimse"), "no response"),
        (AssociationAborted(0, 0), "association lost"),
        (DicomNetworkError("too many matches"), "operation refused"),
    ],
)
def test_operations(error: Exception, name: str) -> None:
    assert cause_of_error(error).name == name


@pytest.mark.parametrize(
    ("status", "came", "received", "name"),
    [
        (0x0000, True, 1, None),
        (0xB000, True, 1, None),
        (0xA801, False, 0, "unknown move destination"),
        (0x0124, False, 0, "not authorized"),
        (0xA702, False, 0, "destination down"),
        (0xA702, True, 0, "destination refused"),
        (0x0000, False, 0, "not delivered"),
    ],
)
def test_moves(status: int, came: bool, received: int, name: str | None) -> None:
    found = cause_of_move(Status(status), None, came=came, received=received)
    assert (found and found.name) == name
