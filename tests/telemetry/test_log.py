"""The loggers of the library: whatever the handlers behind them do, the caller does not notice."""

from __future__ import annotations

import ast
import asyncio
import gc
import logging
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

import asyncdicom
from asyncdicom import VERIFICATION, AccessPolicy, AssociationRejected, BytesSource, Request, associate, serve
from asyncdicom.telemetry import counters
from asyncdicom.telemetry.log import Log
from asyncdicom.telemetry.text import printable

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"


class _Own(BaseException):
    pass


ERRORS = [ValueError, OSError, _Own, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError]


class Raising(logging.Handler):
    """Raises from a place where `logging` does not catch it."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error = error

    def handle(self, record: logging.LogRecord) -> bool:
        raise self.error


class Keeping(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("asyncdicom")
    level, handlers = logger.level, list(logger.handlers)
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.setLevel(level)
    logger.handlers[:] = handlers
    logger.filters.clear()


@pytest.mark.parametrize("error", ERRORS)
def test_what_a_handler_raises_goes_no_further(logger: logging.Logger, error: type[BaseException]) -> None:
    logger.addHandler(Raising(error))
    before = counters.log_errors
    log = Log("asyncdicom.server")
    log.debug("%s", 1)
    log.info("%s", 1)
    log.warning("%s", 1)
    log.error("%s", 1, exc_info=ValueError())
    log.exception("%s", 1)
    log.log(logging.INFO, "%s", 1)
    assert counters.log_errors == before + 6


@pytest.mark.parametrize("error", ERRORS)
async def test_a_peer_does_not_notice_it(logger: logging.Logger, error: type[BaseException]) -> None:
    """Refused associations, handlers that fail, stores, the end: all of them log."""

    async def on_store(request: Request) -> int:
        await request.data.read()
        if request.affected_sop_instance_uid == "1.2":
            raise RuntimeError("a bug")
        return 0

    access = AccessPolicy(called_ae_titles=["SCP"])
    async with serve("SCP@127.0.0.1:0", c_store=on_store, access=access) as server:
        logger.addHandler(Raising(error))
        before = counters.log_errors
        with pytest.raises(AssociationRejected):
            await associate(f"OTHER@127.0.0.1:{server.port}", contexts=[VERIFICATION])
        async with associate(f"SCP@127.0.0.1:{server.port}", contexts=[VERIFICATION, CT]) as association:
            statuses = [
                (await association.c_store(BytesSource(CT, uid, EXPLICIT, b"\0" * 8))).status
                for uid in ("1.2", "1.3")
            ]
            assert (await association.c_echo()).status == 0
        assert [status.category for status in statuses] == ["Failure", "Success"]
    assert counters.log_errors > before


def test_a_filter_counts_as_well(logger: logging.Logger) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        raise _Own

    named = logging.getLogger("asyncdicom.server")
    named.addFilter(refuse)
    before = counters.log_errors
    try:
        Log("asyncdicom.server").warning("told")
    finally:
        named.removeFilter(refuse)
    assert counters.log_errors == before + 1


def test_a_record_keeps_nothing_alive_and_says_where_it_was_made(logger: logging.Logger) -> None:
    class Association:
        def __str__(self) -> str:
            return "EVIL\x1b[2J\n"

        def log_fields(self) -> dict[str, object]:
            return {"address": "10.0.0.7"}

    handler = Keeping()
    logger.addHandler(handler)
    association = Association()
    alive = weakref.ref(association)
    Log("asyncdicom.server").warning("%s: %d of %s", association, 3, "a\u202eb", fields={"status": 0})
    del association
    gc.collect()
    assert alive() is None
    (record,) = handler.records
    assert record.getMessage() == r"EVIL\x1b[2J\n: 3 of a\u202eb"
    assert record.fields == {"address": "10.0.0.7", "status": 0}  # type: ignore[attr-defined]
    assert (record.filename, record.funcName) == (
        "test_log.py",
        "test_a_record_keeps_nothing_alive_and_says_where_it_was_made",
    )


def test_an_argument_that_cannot_be_shown_costs_itself_only(logger: logging.Logger) -> None:
    class Broken:
        def __str__(self) -> str:
            raise ValueError("no")

    handler = Keeping()
    logger.addHandler(handler)
    Log("asyncdicom.server").warning("%s and %s", Broken(), "the rest")
    assert handler.records[0].getMessage() == "<Broken that cannot be shown: ValueError> and the rest"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("DOE^JOHN=山田", "DOE^JOHN=山田"),
        ("a\nW: made up", r"a\nW: made up"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("\u202egnp.exe\u2066", r"\u202egnp.exe\u2066"),
        ("\u2028\ud800\x7f", r"\u2028\ud800\x7f"),
    ],
)
def test_received_text_is_shown_harmlessly(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_every_log_line_of_the_package_goes_through_it() -> None:
    """`logging` itself is for those who set it up."""
    package = Path(asyncdicom.__file__).parent
    own = {package / "telemetry" / "log.py"}
    callers = {
        path.name
        for path in package.rglob("*.py")
        if path not in own
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "getLogger"
    }
    assert callers <= {"log_output.py"}
