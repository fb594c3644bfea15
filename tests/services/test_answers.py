"""What handlers may not answer, and how they may not end: every peer gets an answer, and the log a reason."""

from __future__ import annotations

import asyncio
import errno
import logging
import ssl
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from helpers.peer import CT, IDENTIFIER, MR, Peer, echo_rq, eventually, instance, message, store_rq

from asyncdicom import (
    STUDY_ROOT,
    VERIFICATION,
    AssociationClosed,
    AssociationPool,
    AssociationRejected,
    AssociationTimeout,
    PresentationContext,
    PresentationContextError,
    Proposable,
    Request,
    Response,
    Status,
    StatusError,
    Timeouts,
    associate,
    retrieval_contexts,
    serve,
)
from asyncdicom.services.normalized import NORMALIZED_HANDLERS
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN

PRINTER = "1.2.840.10008.5.1.1.16"
CONTEXTS: list[Proposable] = [
    VERIFICATION,
    CT,
    STUDY_ROOT,
    PRINTER,
    *retrieval_contexts([(MR, EXPLICIT_VR_LITTLE_ENDIAN)]),
]
ALL = ("c_echo", "c_store", "c_get", "c_move", "n_get")


def address(server: Any) -> str:
    return f"SCP@127.0.0.1:{server.port}"


def served(handler: Any, **options: Any) -> Any:
    """A server with this handler for everything that is answered once."""
    contexts: list[Proposable] = [VERIFICATION, CT, STUDY_ROOT, PRINTER]
    handlers = dict.fromkeys(ALL, handler)
    return serve("SCP@127.0.0.1:0", **handlers, contexts=contexts, destinations={"WS": "h:1"}, **options)


async def ask_everything(association: Any) -> dict[str, Response]:
    async def ignored(request: Request) -> int:
        return 0

    found = {"c_echo": await association.c_echo(), "c_store": await association.c_store(instance())}
    for name, call in (
        ("c_get", association.c_get(IDENTIFIER, c_store=ignored)),
        ("c_move", association.c_move(IDENTIFIER, move_destination="WS")),
    ):
        with pytest.raises(StatusError) as caught:
            await call
        found[name] = caught.value.response
    found["n_get"] = await association.n_get(PRINTER, "1.2.3")
    return found


def bugs(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


INTERNAL = {"c_echo": 0x0110, "c_store": 0xC000, "c_get": 0xC000, "c_move": 0xC000, "n_get": 0x0110}


@pytest.mark.parametrize(
    "answer",
    [
        None,
        True,
        False,
        0.0,
        "Success",
        b"",
        [],
        (0,),
        {},
        pytest.param(object(), id="object()"),
        -1,
        0x10000,
        0xFF00,
        Status.PENDING,
        Status,
    ],
    ids=repr,
)
async def test_what_is_no_answer_is_a_bug_of_the_handler(
    answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(request: Request) -> Any:
        return answer

    async with served(handler) as server, associate(address(server), contexts=CONTEXTS) as association:
        responses = await ask_everything(association)
        assert association.is_established
    is_data_set = answer in (b"", {})  # which is how DIMSE-N may answer
    assert {name: int(response.status) for name, response in responses.items()} == {
        **INTERNAL,
        "n_get": 0 if is_data_set else 0x0110,
    }
    assert len(bugs(caplog)) == len(responses) - is_data_set
    assert all(record.exc_info for record in bugs(caplog))


@pytest.mark.parametrize("match", [None, True, 5, "DOE^JANE", [1], Response(0)], ids=repr)
async def test_what_is_no_match(match: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def on_find(request: Request) -> AsyncIterator[Any]:
        yield match

    async with (
        serve("SCP@127.0.0.1:0", c_find=on_find) as server,
        associate(address(server), contexts=[STUDY_ROOT]) as association,
    ):
        with pytest.raises(StatusError) as caught:
            await association.c_find(IDENTIFIER, raw=True)
    assert (caught.value.status, caught.value.response.error_comment) == (0xC000, "internal error")
    assert len(bugs(caplog)) == 1


@pytest.mark.parametrize(
    "answer",
    [
        Response(0, attributes={"PatientID": "1"}),
        Response(0x0105, attribute_identifier_list=[0x00100010]),
        Response(0xA700, error_comment=5),  # type: ignore[arg-type]
        Response(0xA700, offending_elements=["PatientID"]),  # type: ignore[list-item]
        Response(0xA700, error_id=70000),
    ],
    ids=repr,
)
async def test_a_response_that_cannot_be_sent_is_answered_for(
    answer: Response, caplog: pytest.LogCaptureFixture
) -> None:
    async def on_store(request: Request) -> Response:
        return answer

    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store) as server,
        associate(address(server), contexts=[CT]) as association,
    ):
        for _ in range(2):
            response = await association.c_store(instance())
            assert (response.status, response.error_comment) == (0xC000, "internal error")
    assert len(bugs(caplog)) == 2


class Strange(BaseException):
    pass


@pytest.mark.parametrize("error", [Strange, GeneratorExit, SystemExit, KeyboardInterrupt, StopAsyncIteration])
async def test_whatever_is_raised_is_answered_and_logged(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(request: Request) -> Any:
        await asyncio.sleep(0)
        raise error

    async def on_find(request: Request) -> AsyncIterator[bytes]:
        yield IDENTIFIER
        raise error

    async with (
        served(handler, c_find=on_find) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        responses = await ask_everything(association)
        with pytest.raises(StatusError) as caught:
            await association.c_find(IDENTIFIER, raw=True)
        responses["c_find"] = caught.value.response
        assert (await association.c_echo()).status == 0x0110  # the association goes on
    assert {name: int(response.status) for name, response in responses.items()} == {
        **INTERNAL,
        "c_find": 0xC000,
    }
    assert len(bugs(caplog)) == len(responses) + 1


async def test_a_group_of_what_is_no_exception_too(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: Request) -> Any:
        raise BaseExceptionGroup("both", [Strange(), ValueError()])

    async with (
        serve("SCP@127.0.0.1:0", c_echo=handler) as server,
        associate(address(server)) as association,
    ):
        assert (await association.c_echo()).status == 0x0110
    assert len(bugs(caplog)) == 1


# whose fault it is


async def test_a_data_set_that_cannot_be_read_is_the_matter_of_the_peer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(request: Request) -> Any:
        await request.data.dataset()

    async def on_find(request: Request) -> AsyncIterator[Any]:
        yield await request.identifier()

    garbage = b"\x08\x00\x16\x00UI\xff\xffgarbage"
    source = instance()
    source.data = garbage
    async with (
        serve(
            "SCP@127.0.0.1:0",
            c_store=handler,
            c_find=on_find,
            n_set=handler,
            contexts=[CT, STUDY_ROOT, PRINTER],
        ) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        responses = [
            await association.c_store(source),
            await association.n_set(PRINTER, "1.2.3", garbage),
        ]
        with pytest.raises(StatusError) as caught:
            await association.c_find(garbage)
        responses.append(caught.value.response)
    assert [int(response.status) for response in responses] == [0xC000, 0x0110, 0xA900]
    for response in responses:
        assert (response.error_comment or "").startswith("your data set cannot be read: ")
    assert not bugs(caplog)
    notes = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(notes) == 3
    assert all(record.exc_info is None for record in notes)


async def test_a_data_set_that_is_too_large_for_the_handler() -> None:
    async def handler(request: Request) -> Any:
        try:
            await request.data.read(maximum=10)
        except ValueError as error:
            raise RuntimeError("told in other words") from error

    async with (
        serve("SCP@127.0.0.1:0", c_store=handler) as server,
        associate(address(server), contexts=[CT]) as association,
    ):
        response = await association.c_store(instance())
    assert (response.status, response.error_comment) == (0xC000, "internal error")


async def test_other_data_that_cannot_be_read_is_the_matter_of_the_handler(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from asyncdicom.dataset import decode

    async def handler(request: Request) -> Any:
        decode(b"\x08\x00\x16\x00UI\xff\xffgarbage", EXPLICIT_VR_LITTLE_ENDIAN)

    async with (
        serve("SCP@127.0.0.1:0", c_store=handler) as server,
        associate(address(server), contexts=[CT]) as association,
    ):
        assert (await association.c_store(instance())).error_comment == "internal error"
    assert len(bugs(caplog)) == 1


ELSEWHERE = [
    (AssociationClosed("ARCHIVE: no"), (0xA700, 0x0213, 0x0110)),
    (AssociationRejected(1, 1, 1), (0xA700, 0x0213, 0x0110)),
    (AssociationTimeout("ARCHIVE: late"), (0xA700, 0x0213, 0x0110)),
    (OSError(errno.ENOSPC, "No space left on device"), (0xA700, 0x0213, 0x0110)),
    (PresentationContextError("ARCHIVE: no CT"), (0xC000, 0x0110, 0x0110)),
]


@pytest.mark.parametrize(("error", "statuses"), ELSEWHERE, ids=lambda value: type(value).__name__)
async def test_what_another_system_does_is_one_line(
    error: Exception, statuses: tuple[int, int, int], caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(request: Request) -> Any:
        raise error

    async with served(handler) as server, associate(address(server), contexts=CONTEXTS) as association:
        responses = await ask_everything(association)
        assert association.is_established
    composite, normalized, echo = statuses
    assert {name: int(response.status) for name, response in responses.items()} == {
        **dict.fromkeys(("c_store", "c_get", "c_move"), composite),
        "n_get": normalized,
        "c_echo": echo,
    }
    for response in responses.values():
        assert response.error_comment not in (None, "internal error")
    lines = [record for record in caplog.records if record.name == "asyncdicom.services"]
    assert len(lines) == len(responses)
    assert all(record.levelno == logging.WARNING and record.exc_info is None for record in lines)
    assert all(str(error) in record.getMessage() for record in lines)


# what another system has answered


@pytest.mark.parametrize("how", ["return", "raise"])
async def test_the_answer_of_another_system_is_passed_on(how: str) -> None:
    """In another transfer syntax, with all that the request can be told, and no more."""

    async def farther(request: Request) -> Response:
        return Response(
            0x0120,
            error_comment="no name",
            error_id=7,
            attribute_identifier_list=[0x00100010],
            attributes={"PatientID": "1"},
        )

    async def store_farther(request: Request) -> Response:
        return Response(0xA701, error_comment="full", offending_elements=[0x00100010])

    async with (
        serve("FAR@127.0.0.1:0", contexts=[PRINTER, CT], n_get=farther, c_store=store_farther) as far,
        associate(f"FAR@127.0.0.1:{far.port}", contexts=[PRINTER, CT]) as behind,
    ):

        async def gateway(request: Request) -> Response:
            stored = request.command.name == "C-STORE-RQ"
            answer = await (behind.c_store(instance()) if stored else behind.n_get(PRINTER, "1.2"))
            return answer if how == "return" else answer.raise_for_status()

        implicit = PresentationContext(PRINTER, (IMPLICIT_VR_LITTLE_ENDIAN,))
        async with (
            serve("SCP@127.0.0.1:0", contexts=[PRINTER, CT], n_get=gateway, c_store=gateway) as server,
            associate(address(server), contexts=[implicit, CT]) as association,
        ):
            response = await association.n_get(PRINTER, "1.2")
            assert (response.status, response.error_comment, response.error_id) == (0x0120, "no name", 7)
            assert response.attribute_identifier_list == (0x00100010,)
            assert response.attributes.PatientID == "1"
            response = await association.c_store(instance())
            assert (response.status, response.error_comment) == (0xA701, "full")
            assert response.offending_elements == (0x00100010,)


@pytest.mark.parametrize("status", [0xFF00, 0xFF01, 70000, -1])
async def test_a_status_that_ends_nothing_cannot_be_raised_either(status: int) -> None:
    async def handler(request: Request) -> Any:
        raise StatusError(Response(status))

    async with served(handler) as server, associate(address(server), contexts=CONTEXTS) as association:
        assert {name: int(r.status) for name, r in (await ask_everything(association)).items()} == INTERNAL


# a deadline


async def stuck(request: Request) -> Any:
    await asyncio.Event().wait()


DEADLINE = Timeouts(handler_deadline=0.05)


async def test_a_handler_that_takes_too_long_is_cancelled_and_answered_for() -> None:
    async def on_find(request: Request) -> AsyncIterator[bytes]:
        yield IDENTIFIER
        await stuck(request)

    async with (
        served(stuck, c_find=on_find, timeouts=DEADLINE) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        responses = await ask_everything(association)
        with pytest.raises(StatusError) as caught:
            await association.c_find(IDENTIFIER, raw=True)
        responses["c_find"] = caught.value.response
        assert association.is_established
    assert {name: int(response.status) for name, response in responses.items()} == {
        **dict.fromkeys(("c_store", "c_find", "c_get", "c_move"), 0xA700),
        "n_get": 0x0213,
        "c_echo": 0x0110,
    }
    assert {response.error_comment for response in responses.values()} == {"it took too long"}


async def test_by_default_there_is_none() -> None:
    assert Timeouts().handler_deadline is None


async def test_a_handler_that_swallows_the_deadline_is_answered_for_without_it() -> None:
    end = asyncio.Event()

    async def on_get(request: Request) -> Any:
        while not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                pass
        return 0

    timeouts = Timeouts(handler_deadline=0.02, cancel=0.02)
    async with (
        serve("SCP@127.0.0.1:0", n_get=on_get, contexts=[PRINTER], timeouts=timeouts) as server,
        associate(address(server), contexts=[PRINTER]) as association,
    ):
        assert (await association.n_get(PRINTER, "1.2.3")).status == 0x0213
        end.set()


async def test_the_time_of_a_peer_that_still_sends_does_not_count() -> None:
    async def on_store(request: Request) -> int:
        return 0 if len(await request.data.read()) == 20_000 else 0xC001

    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store, timeouts=DEADLINE) as server,
        await Peer.connect(server.port) as peer,
    ):
        await peer.associate([VERIFICATION, CT])
        whole = message(3, store_rq(1), bytes(20_000))
        peer.write(whole[:10_000])
        await asyncio.sleep(0.12)
        peer.write(whole[10_000:])
        assert (await peer.message()).command.status == 0


async def test_each_match_of_a_query_has_its_own_time() -> None:
    async def on_find(request: Request) -> AsyncIterator[bytes]:
        for _ in range(6):
            await asyncio.sleep(0.02)
            yield IDENTIFIER

    async with (
        serve("SCP@127.0.0.1:0", c_find=on_find, timeouts=Timeouts(handler_deadline=0.1)) as server,
        associate(address(server), contexts=[STUDY_ROOT]) as association,
    ):
        assert len(await association.c_find(IDENTIFIER, raw=True)) == 6


async def test_a_deadline_leaves_nothing_behind_when_the_association_is_lost() -> None:
    async with serve("SCP@127.0.0.1:0", c_echo=stuck, timeouts=DEADLINE) as server:
        async with await Peer.connect(server.port) as peer:
            await peer.associate([VERIFICATION])
            peer.send(1, echo_rq(1))
            await eventually(lambda: server.associations == 1)
            peer.reset()
        await eventually(lambda: server.associations == 0)


# what can never work


async def coroutine(request: Request) -> int:
    return 0


async def generator(request: Request) -> AsyncIterator[bytes]:
    yield b""


def ordinary_generator(request: Request) -> Any:
    yield b""


class Callable:
    async def __call__(self, request: Request) -> int:
        return 0


class Yields:
    async def __call__(self, request: Request) -> AsyncIterator[bytes]:
        yield b""


ONCE = ("c_echo", "c_store", "c_get", "c_move", *NORMALIZED_HANDLERS)


@pytest.mark.parametrize("name", ONCE)
@pytest.mark.parametrize(
    "wrong", [5, "coroutine", generator, ordinary_generator, Callable, Yields(), partial(generator), False]
)
def test_a_handler_of_the_wrong_kind_is_refused_before_anybody_calls(name: str, wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} has to be a coroutine function"):
        serve("SCP@127.0.0.1:0", **{name: wrong})
    if name.startswith("n_") or name == "c_store":
        with pytest.raises(TypeError, match=f"{name} has to be a coroutine function"):
            associate("SCP@127.0.0.1:104", **{name: wrong})


async def _two(request: Request, more: int) -> int:
    return more


async def _none() -> int:
    return 0


async def _named(*, request: Request) -> int:
    return 0


class _Method:
    async def missing_self(request) -> int:
        return 0

    async def right(self, request: Request, more: int = 0) -> int:
        return more


@pytest.mark.parametrize("door", [serve, associate, AssociationPool])
@pytest.mark.parametrize("wrong", [_two, _none, _named, _Method().missing_self])
def test_a_handler_that_cannot_be_called_with_a_request_is_refused_at_once(door: Any, wrong: Any) -> None:
    with pytest.raises(TypeError, match="not one that cannot be called with a request alone"):
        door("SCP@127.0.0.1:0", c_store=wrong)
    door("SCP@127.0.0.1:0", c_store=_Method().right)
    door("SCP@127.0.0.1:0", c_store=partial(_two, more=0))


@pytest.mark.parametrize("wrong", [5, coroutine, ordinary_generator, Callable(), partial(coroutine), Yields])
def test_a_find_handler_of_the_wrong_kind(wrong: Any) -> None:
    with pytest.raises(TypeError, match="c_find has to be an asynchronous generator function"):
        serve("SCP@127.0.0.1:0", c_find=wrong)


def test_handlers_of_the_right_kinds() -> None:
    def gives_a_coroutine(request: Request) -> Any:
        return coroutine(request)

    handler: Any
    for handler in (coroutine, Callable(), partial(coroutine), gives_a_coroutine, Callable().__call__):
        serve("SCP@127.0.0.1:0", **dict.fromkeys(ONCE, handler))
    for handler in (generator, Yields(), partial(generator), lambda request: generator(request)):
        serve("SCP@127.0.0.1:0", c_find=handler)


@pytest.mark.parametrize("wrong", [True, "cert.pem", ssl, ssl.SSLContext])
def test_a_tls_context_that_is_none(wrong: Any) -> None:
    for door in (serve, associate):
        with pytest.raises(TypeError, match=r"ssl= takes an ssl\.SSLContext"):
            door("SCP@127.0.0.1:0", ssl=wrong)


async def test_a_function_that_gives_no_coroutine_is_found_at_its_first_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def not_async(request: Request) -> Any:
        return 0

    async with served(not_async) as server, associate(address(server), contexts=CONTEXTS) as association:
        assert {name: int(r.status) for name, r in (await ask_everything(association)).items()} == INTERNAL
