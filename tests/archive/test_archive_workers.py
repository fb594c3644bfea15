"""The threads of the archive: few of them, and every call is made."""

from __future__ import annotations

import threading
import time
import weakref
from functools import partial

from asyncdicom.archive.workers import Workers


def test_as_many_threads_as_are_needed_and_no_more() -> None:
    workers, go_on = Workers(3, "test"), threading.Event()

    def wait() -> None:
        assert go_on.wait(30)

    assert not workers._threads
    for number in range(5):
        workers.submit(wait)
        assert len(workers._threads) == min(number + 1, 3)
    go_on.set()
    workers.shutdown()


def test_an_idle_thread_is_used_again() -> None:
    workers, threads = Workers(8, "test"), set()
    for _ in range(20):
        workers.submit(lambda: threads.add(threading.get_ident()))
        while not workers._idle:
            time.sleep(0)
    workers.shutdown()
    assert len(threads) == 1


def test_the_end_waits_for_all_that_was_submitted() -> None:
    workers, go_on = Workers(2, "test"), threading.Event()
    made: list[int] = []

    def note(number: int) -> None:
        assert go_on.wait(30)
        made.append(number)

    for number in range(50):
        workers.submit(partial(note, number))
    assert not made
    go_on.set()
    workers.shutdown()
    assert sorted(made) == list(range(50))
    assert not any(thread.is_alive() for thread in workers._threads)


def test_nothing_of_a_call_is_kept_when_it_is_made() -> None:
    class Views:
        def use(self) -> None:
            pass

    workers, views = Workers(1, "test"), Views()
    gone = threading.Event()
    weakref.finalize(views, gone.set)
    workers.submit(views.use)
    del views
    assert gone.wait(30)  # though no other call comes
    workers.shutdown()
