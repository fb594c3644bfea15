"""Hours and weekdays, with the two nights of a year that are not as long as the others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.gateway.schedule import Schedule

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> datetime:
    """A time of day in Berlin."""
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN)


@pytest.mark.parametrize(
    ("when", "is_open"),
    [
        ("2026-11-26 18:59", False),  # a Thursday
        ("2026-11-26 19:00", True),
        ("2026-11-27 05:59", True),
        ("2026-11-27 06:00", False),
        ("2026-11-28 05:00", True),  # Friday's window goes on
        ("2026-11-28 19:00", False),
        ("2026-11-30 05:00", False),  # it does not begin on Sunday
    ],
)
def test_a_window_over_midnight_belongs_to_the_day_it_begins_on(when: str, is_open: bool) -> None:
    assert Schedule(["mon-fri 19:00-06:00"], BERLIN).is_open(at(when)) is is_open


def test_there_may_be_several_windows_and_none_is_always() -> None:
    schedule = Schedule(["sat-sun 00:00-24:00", "12:00-13:00"], BERLIN)
    assert schedule.is_open(at("2026-11-28 23:59"))
    assert schedule.is_open(at("2026-11-26 12:30"))
    assert not schedule.is_open(at("2026-11-26 13:00"))
    assert Schedule().is_open(at("2026-11-26 13:00"))


def test_days_go_round_the_end_of_the_week() -> None:
    schedule = Schedule(["sat-mon 08:00-09:00"], BERLIN)
    days = [day for day in range(23, 30) if schedule.is_open(at(f"2026-11-{day} 08:30"))]
    assert days == [23, 28, 29]  # Monday the 23rd, Saturday, Sunday


def test_two_readings_of_the_same_hours_are_equal() -> None:
    first, second = (Schedule(["mon-fri 19:00-06:00"], ZoneInfo("Europe/Berlin")) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert first != Schedule(["mon-fri 19:00-06:00"])
    assert first != Schedule(["mon-fri 19:00-07:00"], ZoneInfo("Europe/Berlin"))
    assert first != "mon-fri 19:00-06:00"


def test_it_says_when_it_opens() -> None:
    schedule = Schedule(["mon-fri 19:00-06:00"], BERLIN)
    assert schedule.seconds_until_open(at("2026-11-26 20:00")) == 0
    assert schedule.seconds_until_open(at("2026-11-26 18:00")) == 3600
    assert schedule.seconds_until_open(at("2026-11-28 19:00")) == 48 * 3600


def test_when_the_clock_is_put_forward_an_hour_is_missing() -> None:
    schedule = Schedule(["01:00-04:00"], BERLIN)
    start = at("2026-03-29 00:30").astimezone(UTC)
    assert sum(schedule.is_open(start + timedelta(minutes=m)) for m in range(300)) == 120
    assert schedule.seconds_until_open(at("2026-03-29 00:30")) == 1800


def test_a_window_in_the_missing_hour_waits_for_the_next_day() -> None:
    schedule = Schedule(["02:15-02:45"], BERLIN)
    assert schedule.seconds_until_open(at("2026-03-29 00:30")) == (24.75) * 3600


def test_when_it_is_put_back_there_is_one_more() -> None:
    schedule = Schedule(["01:00-04:00"], BERLIN)
    start = at("2026-10-25 00:30").astimezone(UTC)
    assert sum(schedule.is_open(start + timedelta(minutes=m)) for m in range(400)) == 240


@given(
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 1), timezones=st.just(UTC)),
    st.tuples(st.integers(0, 1439), st.integers(0, 1440)).filter(lambda w: w[0] != w[1]),
    st.sampled_from(["", "mon ", "fri-sun "]),
)
def test_what_it_says_holds(when: datetime, window: tuple[int, int], days: str) -> None:
    start, end = (f"{minute // 60:02}:{minute % 60:02}" for minute in window)
    schedule = Schedule([f"{days}{start}-{end}"], BERLIN)
    wait = schedule.seconds_until_open(when)
    if wait:
        assert not schedule.is_open(when)
        assert schedule.is_open(when + timedelta(seconds=wait))
        assert not schedule.is_open(when + timedelta(seconds=wait - 1))


@pytest.mark.parametrize(
    "window",
    ["", "8-9", "mon", "25:00-26:00", "08:00-08:00", "08:61-09:00", "xyz 08:00-09:00", "mon-xyz 08:00-09:00"],
)
def test_what_is_no_window_is_refused(window: str) -> None:
    with pytest.raises(ValueError, match=r"window|none of|the day|begins"):
        Schedule([window])
