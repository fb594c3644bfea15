"""What an attempt says of the instance, and of the destination."""

from __future__ import annotations

import asyncio
import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.archive.errors import ArchiveError
from asyncdicom.exceptions import (
    AssociationAborted,
    AssociationClosed,
    AssociationRejected,
    AssociationTimeout,
    DataSetError,
    PresentationContextError,
    RemoteProtocolError,
)
from asyncdicom.gateway.verdicts import Verdict, verdict_of_error, verdict_of_status
from asyncdicom.status import Status


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (0x0000, Verdict.DELIVERED),
        (0xB000, Verdict.DELIVERED),
        (0xB006, Verdict.DELIVERED),
        (0xB007, Verdict.DELIVERED),
        (0x0001, Verdict.DELIVERED),
        (0xA700, Verdict.DESTINATION),
        (0xA7FF, Verdict.DESTINATION),
        (0x0213, Verdict.DESTINATION),
        (0xA900, Verdict.OBJECT),
        (0xA9EE, Verdict.OBJECT),
        (0xC000, Verdict.OBJECT),
        (0xC123, Verdict.OBJECT),
        (0x0110, Verdict.OBJECT),
        (0x0111, Verdict.OBJECT),
        (0x0124, Verdict.OBJECT),
        (0xFE00, Verdict.OBJECT),
        (0x0122, Verdict.REFUSED),
        (0x0211, Verdict.REFUSED),
    ],
)
def test_a_status_says_whose_fault_it_is(status: int, verdict: Verdict) -> None:
    assert verdict_of_status(Status(status)) is verdict


def test_a_destination_may_mean_another_status_as_a_delivery() -> None:
    assert verdict_of_status(Status(0x0111), {0x0111}) is Verdict.DELIVERED


@given(st.integers(0, 0xFFFF))
def test_only_success_and_warnings_are_deliveries(code: int) -> None:
    status = Status(code)
    assert (verdict_of_status(status) is Verdict.DELIVERED) == (status.is_success or status.is_warning)


@pytest.mark.parametrize(
    ("error", "was_sending", "verdict"),
    [
        (AssociationRejected(1, 1, 3), False, Verdict.DESTINATION),
        (AssociationRejected(2, 3, 2), False, Verdict.DESTINATION),
        (AssociationClosed("no route"), False, Verdict.DESTINATION),
        (AssociationTimeout("connect"), False, Verdict.DESTINATION),
        (OSError("no sockets left"), False, Verdict.DESTINATION),
        (AssociationAborted(0, 0), True, Verdict.BROKEN),
        (AssociationTimeout("dimse"), True, Verdict.BROKEN),
        (PresentationContextError("not accepted"), True, Verdict.REFUSED),
        (RemoteProtocolError("garbage"), True, Verdict.BROKEN),
        (FileNotFoundError("spool"), True, Verdict.UNREADABLE),
        (OSError(errno.EIO, "a bad sector"), True, Verdict.UNREADABLE),
        (OSError(errno.EMFILE, "too many open files"), True, Verdict.HERE),
        (OSError(errno.ETIMEDOUT, "the object store did not answer"), True, Verdict.HERE),
        (ArchiveError("the index cannot be read"), False, Verdict.HERE),
        (DataSetError("damaged"), True, Verdict.UNREADABLE),
        (asyncio.CancelledError(), True, Verdict.RETURNED),
    ],
)
def test_an_exception_says_whose_fault_it_is(
    error: BaseException, was_sending: bool, verdict: Verdict
) -> None:
    assert verdict_of_error(error, was_sending=was_sending) is verdict


@pytest.mark.parametrize(
    ("cause", "verdict"),
    [
        (DataSetError("it became shorter"), Verdict.UNREADABLE),
        (OSError(errno.EIO, "a bad sector"), Verdict.UNREADABLE),
        (OSError(errno.ETIMEDOUT, "the object store did not answer"), Verdict.HERE),
        (AssociationTimeout("write"), Verdict.BROKEN),
        (ConnectionResetError(errno.ECONNRESET, "reset"), Verdict.BROKEN),
        (RemoteProtocolError("garbage"), Verdict.BROKEN),
        (None, Verdict.BROKEN),
    ],
)
def test_what_cannot_be_read_on_is_not_the_associations_fault(
    cause: Exception | None, verdict: Verdict
) -> None:
    error = AssociationAborted(0, 0, "aborted in the middle of a message")
    error.__cause__ = cause
    assert verdict_of_error(error, was_sending=True) is verdict
