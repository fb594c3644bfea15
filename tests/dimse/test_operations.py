from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asyncdicom.dimse.messages import Command, CommandField
from asyncdicom.dimse.operations import (
    MAXIMUM_DUPLICATES,
    MAXIMUM_REPEATED,
    MAXIMUM_STRAYS,
    DuplicateInvocation,
    Invoked,
    InvokedOperations,
    PerformedOperations,
)
from asyncdicom.exceptions import LocalProtocolError, RemoteProtocolError

ECHO, STORE, FIND, GET, MOVE = (
    CommandField.C_ECHO_RQ,
    CommandField.C_STORE_RQ,
    CommandField.C_FIND_RQ,
    CommandField.C_GET_RQ,
    CommandField.C_MOVE_RQ,
)
PENDING, SUCCESS = 0xFF00, 0x0000


def response(operation: Invoked, status: int = SUCCESS) -> Command:
    field = CommandField(operation.command_field | 0x8000)
    return Command(field, message_id_being_responded_to=operation.message_id, status=status)


def request(message_id: int | None, field: CommandField = ECHO) -> Command:
    return Command(field, message_id=message_id)


# --- invoked: examples ----------------------------------------------------------------------------------


def test_one_operation_from_request_to_response() -> None:
    operations = InvokedOperations(1)
    echo = operations.open(1, ECHO, timeout=30, now=0)
    assert (echo.message_id, echo.context_id, echo.command_field) == (1, 1, ECHO)
    assert len(operations) == 1
    assert not operations.has_room
    assert operations.next_deadline() is None  # it is still being sent
    operations.sent(echo.message_id, 5)
    assert operations.next_deadline() == 35
    assert operations.receive(response(echo), 6) is echo
    assert echo.closed
    assert len(operations) == 0
    assert operations.next_deadline() is None


def test_a_full_window_refuses_one_more() -> None:
    operations = InvokedOperations(2)
    operations.open(1, ECHO, timeout=None, now=0)
    operations.open(1, ECHO, timeout=None, now=0)
    with pytest.raises(LocalProtocolError, match="2 operations"):
        operations.open(1, ECHO, timeout=None, now=0)


def test_the_bytes_outstanding_are_bounded_but_one_may_always_be() -> None:
    operations = InvokedOperations(4, maximum_outstanding=100)
    assert operations.has_room_for(1000)
    large = operations.open(1, STORE, timeout=None, now=0, length=1000)
    assert operations.has_room_for(0)
    assert not operations.has_room_for(1)
    operations.receive(response(large), 1)
    small = operations.open(1, STORE, timeout=None, now=0, length=60)
    assert [length for length in (39, 40, 41) if operations.has_room_for(length)] == [39, 40]
    operations.close(small.message_id)
    assert operations.has_room_for(1000)
    for _ in range(4):
        operations.open(1, STORE, timeout=None, now=0, length=1)
    assert not operations.has_room_for(0)


def test_while_others_are_answered_a_c_store_gets_more_time_but_not_for_ever() -> None:
    operations = InvokedOperations(3)
    slow, *others = (operations.open(1, STORE, timeout=10, now=0) for _ in range(3))
    for each in (slow, *others):
        operations.sent(each.message_id, 0)
    operations.receive(response(others[0]), 8)
    assert operations.expired(10) == []
    assert operations.next_deadline() == 18
    operations.receive(response(others[1]), 17)
    assert operations.expired(18) == []
    assert operations.next_deadline() == 27
    more = operations.open(1, STORE, timeout=10, now=18)
    operations.sent(more.message_id, 18)
    operations.receive(response(more), 26)
    assert operations.expired(27) == [slow], "as often as the window is large"


def test_only_answers_to_c_stores_give_a_c_store_more_time() -> None:
    operations = InvokedOperations(3)
    store, echo, find = (operations.open(1, field, timeout=10, now=0) for field in (STORE, ECHO, FIND))
    for each in (store, echo, find):
        operations.sent(each.message_id, 0)
    operations.receive(response(echo), 9)
    assert operations.expired(10) == [store, find]


def test_message_ids_wrap_and_skip_those_in_use() -> None:
    operations = InvokedOperations(0)
    first = operations.open(1, MOVE, timeout=None, now=0)
    for expected in (*range(2, 0x10000), 2, 3):
        echo = operations.open(1, ECHO, timeout=None, now=0)
        assert echo.message_id == expected
        operations.close(echo.message_id)
    assert list(operations) == [first]


def test_an_unlimited_window_ends_with_the_message_ids() -> None:
    operations = InvokedOperations(0)
    for _ in range(0xFFFF):
        operations.open(1, ECHO, timeout=None, now=0)
    assert not operations.has_room
    with pytest.raises(LocalProtocolError):
        operations.open(1, ECHO, timeout=None, now=0)


@pytest.mark.parametrize("field", [FIND, GET, MOVE])
def test_pending_restarts_the_timer(field: CommandField) -> None:
    operations = InvokedOperations()
    operation = operations.open(1, field, timeout=10, now=0)
    operations.sent(operation.message_id, 0)
    assert operations.receive(response(operation, PENDING), 9) is operation
    assert not operation.closed
    assert operations.next_deadline() == 19


@pytest.mark.parametrize("field", [ECHO, STORE, CommandField.N_ACTION_RQ])
def test_pending_is_no_progress_where_it_means_nothing(field: CommandField) -> None:
    operations = InvokedOperations()
    operation = operations.open(1, field, timeout=10, now=0)
    operations.sent(operation.message_id, 0)
    operations.receive(response(operation, PENDING), 9)
    assert operations.next_deadline() == 10


def test_an_answer_before_the_request_was_sent_to_its_end() -> None:
    operations = InvokedOperations()
    store = operations.open(1, STORE, timeout=10, now=0)
    assert operations.receive(response(store, 0xA700), 1) is store
    operations.sent(store.message_id, 2)
    assert operations.next_deadline() is None


def test_cancel_gives_the_rest_one_deadline() -> None:
    operations = InvokedOperations()
    find = operations.open(1, FIND, timeout=10, now=0)
    operations.sent(find.message_id, 0)
    operations.cancel(find.message_id, 5, 2)
    assert operations.receive(response(find, PENDING), 6) is find
    assert operations.next_deadline() == 7
    assert operations.receive(response(find, 0xFE00), 6.5) is find
    assert find.closed


def test_sub_operations_of_a_c_get_give_it_time_until_it_is_cancelled() -> None:
    operations = InvokedOperations(2)
    get = operations.open(1, GET, timeout=10, now=0)
    store = operations.open(1, STORE, timeout=20, now=0)
    operations.sent(get.message_id, 0)
    operations.sent(store.message_id, 0)
    operations.progressed(9)
    assert operations.next_deadline() == 19
    operations.receive(response(store), 9)
    operations.cancel(get.message_id, 5, 10)
    operations.progressed(14)
    assert operations.next_deadline() == 15


def test_without_a_time_out_nothing_is_due() -> None:
    operations = InvokedOperations()
    get = operations.open(1, GET, timeout=10, now=0)
    operations.sent(get.message_id, 0)
    operations.cancel(get.message_id, None, 2)
    assert operations.next_deadline() is None
    operations.progressed(3)
    assert operations.next_deadline() is None


def test_cancel_before_the_request_was_sent_to_its_end() -> None:
    operations = InvokedOperations()
    find = operations.open(1, FIND, timeout=10, now=0)
    operations.cancel(find.message_id, 5, 2)
    operations.sent(find.message_id, 3)
    assert operations.next_deadline() == 7


def test_the_late_response_of_an_abandoned_operation_is_dropped_and_frees_its_place() -> None:
    operations = InvokedOperations(1)
    store = operations.open(1, STORE, timeout=10, now=0)
    operations.sent(store.message_id, 0)
    operations.abandon(store.message_id)
    assert not operations.has_room  # the peer is still busy with it
    for _ in range(MAXIMUM_STRAYS + 1):
        assert operations.receive(response(store, PENDING), 1) is None
    assert operations.receive(response(store), 1) is None
    assert operations.has_room


def test_a_response_of_another_kind_answers_nothing() -> None:
    operations = InvokedOperations()
    store = operations.open(1, STORE, timeout=10, now=0)
    wrong = Command(CommandField.C_FIND_RSP, message_id_being_responded_to=store.message_id, status=SUCCESS)
    assert operations.receive(wrong, 1) is None
    assert not store.closed


def test_stray_responses_are_dropped_for_a_while() -> None:
    operations = InvokedOperations()
    stray = Command(CommandField.C_ECHO_RSP, message_id_being_responded_to=99, status=SUCCESS)
    for _ in range(MAXIMUM_STRAYS):
        assert operations.receive(stray, 0) is None
    with pytest.raises(RemoteProtocolError) as caught:
        operations.receive(stray, 0)
    assert caught.value.reason == 6


def test_timers_stand_still_while_reading_is_paused() -> None:
    operations = InvokedOperations(0)
    before = operations.open(1, FIND, timeout=10, now=0)
    operations.sent(before.message_id, 0)
    operations.pause(4)
    operations.pause(5)  # it is paused already
    assert operations.next_deadline() is None
    assert operations.expired(1000) == []
    meanwhile = operations.open(1, ECHO, timeout=10, now=50)
    operations.sent(meanwhile.message_id, 50)
    operations.resume(104)
    operations.resume(105)
    assert operations.next_deadline() == 110  # six seconds were left
    assert operations.expired(110) == [before]
    assert operations.next_deadline() == 114  # the whole ten
    assert operations.expired(114) == [meanwhile]


def test_an_expired_operation_is_told_once_and_stays_open() -> None:
    operations = InvokedOperations()
    echo = operations.open(1, ECHO, timeout=10, now=0)
    operations.sent(echo.message_id, 0)
    assert operations.expired(9.99) == []
    assert operations.expired(10) == [echo]
    assert operations.expired(11) == []
    assert operations.next_deadline() is None
    assert list(operations) == [echo]


def test_repr_says_what_it_is() -> None:
    operations = InvokedOperations()
    operations.open(1, ECHO, timeout=None, now=0)
    (echo,) = operations
    operations.abandon(1)
    assert repr(echo) == "<abandoned C_ECHO_RQ 1>"


# --- invoked: any sequence ------------------------------------------------------------------------------


class Model:
    """What a test knows of one operation, with its deadline as so many seconds of unpaused time."""

    def __init__(self, operation: Invoked) -> None:
        self.operation = operation
        self.left: float | None = None
        self.cancelled = self.abandoned = self.sent = False


class InvokedMachine(RuleBasedStateMachine):
    WINDOW = 3
    TIMEOUT = 16.0
    CANCEL_TIMEOUT = 4.0

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.paused = False
        self.operations = InvokedOperations(self.WINDOW)
        self.models: dict[int, Model] = {}

    def pick(self, data: st.DataObject) -> Model:
        return self.models[data.draw(st.sampled_from(sorted(self.models)))]

    @precondition(lambda self: len(self.models) < self.WINDOW)
    @rule(field=st.sampled_from([ECHO, STORE, FIND, GET, MOVE]))
    def open(self, field: CommandField) -> None:
        assert self.operations.has_room
        operation = self.operations.open(1, field, timeout=self.TIMEOUT, now=self.now)
        assert operation.message_id not in self.models
        self.models[operation.message_id] = Model(operation)

    @precondition(lambda self: len(self.models) == self.WINDOW)
    @rule()
    def open_too_many(self) -> None:
        with pytest.raises(LocalProtocolError):
            self.operations.open(1, ECHO, timeout=None, now=self.now)

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def sent(self, data: st.DataObject) -> None:
        model = self.pick(data)
        if model.sent:
            return
        model.sent = True
        self.operations.sent(model.operation.message_id, self.now)
        if not model.cancelled:
            model.left = self.TIMEOUT

    @precondition(lambda self: self.models and not self.paused)
    @rule(data=st.data(), status=st.sampled_from([PENDING, 0xFF01, SUCCESS, 0xA700, 0xB000, 0xFE00]))
    def receive(self, data: st.DataObject, status: int) -> None:
        model = self.pick(data)
        operation = model.operation
        expected = None if model.abandoned else operation
        assert self.operations.receive(response(operation, status), self.now) is expected
        if status not in (PENDING, 0xFF01):
            assert operation.closed
            assert not self.operations.is_open(operation.message_id)
            del self.models[operation.message_id]
        elif operation.command_field in (FIND, GET, MOVE) and not model.cancelled:
            model.left = self.TIMEOUT

    @rule(message_id=st.integers(0, 0xFFFF))
    def receive_stray(self, message_id: int) -> None:
        stray = Command(CommandField.N_SET_RSP, message_id_being_responded_to=message_id, status=SUCCESS)
        assert self.operations.receive(stray, self.now) is None

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        model = self.pick(data)
        self.operations.cancel(model.operation.message_id, self.CANCEL_TIMEOUT, self.now)
        model.cancelled = True
        model.left = self.CANCEL_TIMEOUT

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        model = self.pick(data)
        self.operations.abandon(model.operation.message_id)
        model.abandoned = True

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        model = self.pick(data)
        self.operations.close(model.operation.message_id)
        del self.models[model.operation.message_id]

    @rule()
    def pause(self) -> None:
        self.operations.pause(self.now)
        self.paused = True

    @rule()
    def resume(self) -> None:
        self.operations.resume(self.now)
        self.paused = False

    @rule(quarters=st.integers(0, 100))
    def time_passes(self, quarters: int) -> None:
        seconds = quarters / 4  # exact in binary: the model needs no tolerance
        self.now += seconds
        due = set()
        if not self.paused:
            for message_id, model in self.models.items():
                if model.left is not None:
                    model.left -= seconds
                    if model.left <= 0:
                        due.add(message_id)
                        model.left = None
        assert {operation.message_id for operation in self.operations.expired(self.now)} == due

    @invariant()
    def deadline_is_the_nearest(self) -> None:
        left = [model.left for model in self.models.values() if model.left is not None]
        expected = None if self.paused or not left else self.now + min(left)
        assert self.operations.next_deadline() == expected

    @invariant()
    def open_ones_are_known(self) -> None:
        assert {operation.message_id for operation in self.operations} == set(self.models)
        assert len(self.operations) == len(self.models)
        assert self.operations.has_room == (len(self.models) < self.WINDOW)
        for model in self.models.values():
            operation = model.operation
            assert self.operations.is_open(operation.message_id)
            assert (operation.cancelled, operation.abandoned) == (model.cancelled, model.abandoned)
            assert not operation.closed


TestInvokedMachine = InvokedMachine.TestCase


@pytest.mark.parametrize("field", [GET, MOVE])
def test_pending_responses_to_a_retrieval_come_to_an_end(
    field: CommandField, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncdicom.dimse.operations.MAXIMUM_PENDING", 5)
    operations = InvokedOperations(2)
    retrieval = operations.open(1, field, timeout=30, now=0)
    query = operations.open(1, FIND, timeout=30, now=0)
    for _ in range(5):
        assert operations.receive(response(retrieval, PENDING), 1) is retrieval
    with pytest.raises(RemoteProtocolError, match="5 Pending"):
        operations.receive(response(retrieval, PENDING), 1)
    for _ in range(10):  # who asked bounds the number of matches
        assert operations.receive(response(query, PENDING), 1) is query


@pytest.mark.parametrize("field", [GET, MOVE])
def test_pending_responses_that_say_nothing_new_come_to_an_end_sooner(field: CommandField) -> None:
    operations = InvokedOperations(1)
    retrieval = operations.open(1, field, timeout=30, now=0)

    def pending(completed: int) -> Command:
        told = response(retrieval, PENDING)
        told.number_of_completed_sub_operations = completed
        return told

    for completed in range(3):
        for _ in range(MAXIMUM_REPEATED + 1):  # the first one is news
            operations.receive(pending(completed), 1)
    with pytest.raises(RemoteProtocolError, match="nothing new"):
        operations.receive(pending(2), 1)


def test_what_comes_between_pending_responses_of_a_c_get_is_news() -> None:
    operations = InvokedOperations(1)
    retrieval = operations.open(1, GET, timeout=30, now=0)
    for _ in range(3 * MAXIMUM_REPEATED):
        operations.receive(response(retrieval, PENDING), 1)
        operations.progressed(1)


# --- performed ------------------------------------------------------------------------------------------


def test_a_message_id_in_use_is_a_duplicate() -> None:
    operations = PerformedOperations(5)
    first = request(7)
    operations.open(first)
    with pytest.raises(DuplicateInvocation):
        operations.open(request(7, STORE))
    assert len(operations) == 1
    operations.close(first)
    operations.open(request(7))
    operations.close(first)  # its answer, which comes late, does not free the Message ID of the next
    assert len(operations) == 1


def test_only_so_many_requests_under_a_message_id_in_use_are_answered() -> None:
    operations = PerformedOperations(5)
    operations.open(request(7))
    for _ in range(MAXIMUM_DUPLICATES):
        with pytest.raises(DuplicateInvocation):
            operations.open(request(7))
    with pytest.raises(RemoteProtocolError, match="in use") as caught:
        operations.open(request(7))
    assert not isinstance(caught.value, DuplicateInvocation)


@pytest.mark.parametrize("window", [1, 3])
def test_twice_the_window_is_tolerated(window: int) -> None:
    operations = PerformedOperations(window)
    for message_id in range(2 * window):
        operations.open(request(message_id))
    with pytest.raises(RemoteProtocolError) as caught:
        operations.open(request(1000))
    assert caught.value.reason == 5
    assert not isinstance(caught.value, DuplicateInvocation)


def test_so_may_each_service_that_a_peer_counts_the_window_for() -> None:
    operations = PerformedOperations(2)
    fields = (CommandField.C_STORE_RQ, CommandField.C_FIND_RQ, CommandField.C_ECHO_RQ)
    for number in range(4):
        for kind, field in enumerate(fields):
            command = Command(field, message_id=10 * kind + number)
            assert not operations.is_in_the_way(command)
            operations.open(command)
    for field in fields:
        command = Command(field, message_id=1000)
        assert operations.is_in_the_way(command)
        with pytest.raises(RemoteProtocolError):
            operations.open(command)


def test_an_unlimited_window() -> None:
    operations = PerformedOperations(0)
    for message_id in range(0x10000):
        operations.open(request(message_id))
    assert len(operations) == 0x10000


def test_a_request_without_message_id() -> None:
    with pytest.raises(RemoteProtocolError, match="message_id"):
        PerformedOperations(1).open(request(None))


def test_cancels_of_nothing_are_ignored_for_a_while() -> None:
    operations = PerformedOperations(1)
    for _ in range(MAXIMUM_STRAYS):
        assert not operations.cancel(3)
    with pytest.raises(RemoteProtocolError) as caught:
        operations.cancel(3)
    assert caught.value.reason == 6


class PerformedMachine(RuleBasedStateMachine):
    message_ids = st.integers(1, 4)

    def __init__(self) -> None:
        super().__init__()
        self.operations = PerformedOperations(4)
        self.cancelled: dict[int, bool] = {}
        self.requests: dict[int, Command] = {}

    @rule(message_id=message_ids)
    def open(self, message_id: int) -> None:
        if message_id in self.cancelled:
            with pytest.raises(DuplicateInvocation):
                self.operations.open(request(message_id, FIND))
        else:
            self.requests[message_id] = request(message_id, FIND)
            self.operations.open(self.requests[message_id])
            self.cancelled[message_id] = False

    @rule(message_id=message_ids)
    def cancel(self, message_id: int) -> None:
        news = self.cancelled.get(message_id) is False
        cancelled = self.operations.cancel(message_id)
        assert cancelled is (self.requests[message_id] if news else None)
        if news:
            self.cancelled[message_id] = True

    @rule(message_id=message_ids)
    def close(self, message_id: int) -> None:
        self.operations.close(self.requests.get(message_id, request(message_id, FIND)))
        self.cancelled.pop(message_id, None)

    @invariant()
    def agrees(self) -> None:
        assert len(self.operations) == len(self.cancelled)
        for message_id in range(1, 5):
            assert self.operations.is_cancelled(message_id) == self.cancelled.get(message_id, False)


TestPerformedMachine = PerformedMachine.TestCase
