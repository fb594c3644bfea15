"""When to try again what has failed several times."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.breaker import Breaker


def failing(breaker: Breaker, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        attempt = breaker.begin(now)
        assert attempt is not None
        breaker.failed(attempt, now)


def test_failures_in_a_row_lead_to_a_pause() -> None:
    breaker = Breaker(3, 5, 60)
    failing(breaker, 3)
    assert breaker.begin(4.9) is None
    assert breaker.wait(1) == 4
    assert breaker.begin(5) is not None


def test_a_success_between_them_starts_the_count_anew() -> None:
    breaker = Breaker(3, 5, 60)
    failing(breaker, 2)
    breaker.succeeded()
    failing(breaker, 2)
    assert breaker.is_closed


def test_the_pause_grows_up_to_the_longest() -> None:
    breaker = Breaker(1, 5, 30)
    now, pauses = 0.0, []
    for _ in range(5):
        failing(breaker, 1, now)
        pauses.append(breaker.wait(now))
        now += breaker.wait(now)
    assert pauses == [5, 10, 20, 30, 30]


def test_there_is_one_probe_at_a_time() -> None:
    breaker = Breaker(1, 5, 60)
    failing(breaker, 1)
    probe = breaker.begin(5)
    assert probe is not None
    assert breaker.begin(1000) is None
    assert breaker.wait(1000) == 0
    breaker.abandoned(probe)
    assert breaker.begin(1000) is not None


def test_those_that_began_before_the_pause_do_not_make_it_longer() -> None:
    breaker = Breaker(1, 5, 60)
    attempts = [breaker.begin(0) for _ in range(10)]
    for attempt in attempts:
        assert attempt is not None
        breaker.failed(attempt, 1)
    assert breaker.wait(1) == 5
    assert breaker.failures == 1


def test_a_late_success_of_one_of_them_ends_it() -> None:
    breaker = Breaker(1, 5, 60)
    first, second = breaker.begin(0), breaker.begin(0)
    assert first is not None
    assert second is not None
    breaker.failed(first, 1)
    breaker.succeeded()
    assert breaker.begin(1) is not None


STEPS = st.lists(
    st.tuples(st.floats(0, 40), st.sampled_from(["begin", "fail", "succeed", "abandon"]), st.integers(0, 9))
)


@given(STEPS)
def test_whatever_happens_a_paused_breaker_lets_one_through_at_most(
    steps: list[tuple[float, str, int]],
) -> None:
    breaker, now = Breaker(2, 5, 60), 0.0
    open_attempts: list[int] = []
    probes: set[int] = set()
    for passed, what, which in steps:
        now += passed
        if what == "begin":
            was_closed = breaker.is_closed
            attempt = breaker.begin(now)
            if attempt is not None:
                open_attempts.append(attempt)
                if not was_closed:
                    probes.add(attempt)
            assert attempt is not None or not was_closed
            assert len(probes) <= 1
        elif open_attempts:
            attempt = open_attempts.pop(which % len(open_attempts))
            if what == "fail":
                breaker.failed(attempt, now)
            elif what == "succeed":
                breaker.succeeded()
                probes.clear()
                assert breaker.is_closed
            else:
                breaker.abandoned(attempt)
            probes.discard(attempt)
        assert 0 <= breaker.wait(now) <= 60
        assert breaker.is_closed == (breaker.failures < 2)


@given(st.integers(1, 2000), st.floats(0.1, 30))
def test_who_always_fails_is_tried_a_few_times_only(asked: int, every: float) -> None:
    breaker, tried = Breaker(3, 5, 300), 0
    for number in range(asked):
        now = number * every
        attempt = breaker.begin(now)
        if attempt is not None:
            tried += 1
            breaker.failed(attempt, now)
    assert tried <= 3 + 7 + asked * every / 300 + 1
