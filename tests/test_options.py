"""`Timeouts` and `Limits`: documented, checked when they are made, the only place of a default."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncdicom
from asyncdicom import AssociationPool, ByRole, Limits, Timeouts, associate, serve
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.cli.fields import documentation
from asyncdicom.options import OPERATIONS, of_role

ADDRESS = "SCP@127.0.0.1:104"
BOTH = pytest.mark.parametrize("options", [Timeouts, Limits])
FIELDS = [(options, name) for options in (Timeouts, Limits) for name in options.__annotations__]
EACH_FIELD = pytest.mark.parametrize(("options", "name"), FIELDS, ids=[name for _, name in FIELDS])


# what a field says


@EACH_FIELD
def test_every_field_says_what_exceeding_it_leads_to(options: type, name: str) -> None:
    text = documentation(options)[name]
    first, _, rest = text.partition("\n")
    assert first.endswith("."), "one sentence in one line: the tools show it"
    assert re.search(r"Beyond\s+it[:,]\s", rest)


@EACH_FIELD
def test_every_default_is_allowed(options: Any, name: str) -> None:
    assert options(**{name: getattr(options, name)}) == options()


def test_no_default_stands_twice() -> None:
    package = Path(asyncdicom.__file__).parent
    found = {p.name for p in package.rglob("*.py") if re.search(r"262_?144", p.read_text())}
    assert found == {"options.py", "fragmenter.py"}, "the longest PDU that we send is another limit"


# what is allowed


@pytest.mark.parametrize("value", ["5", b"5", True, False, [5], math.nan, math.inf, -1, -0.5])
@EACH_FIELD
def test_what_is_no_number_or_none_of_ours(options: Any, name: str, value: object) -> None:
    with pytest.raises((TypeError, ValueError), match=f"{options.__name__}.{name} must be "):
        options(**{name: value})


@pytest.mark.parametrize("name", [n for o, n in FIELDS if o is Limits and n != "accept_rate"])
def test_numbers_and_sizes_are_whole(name: str) -> None:
    with pytest.raises(TypeError, match=f"Limits.{name} must be a whole number"):
        Limits(**{name: 16.0})  # type: ignore[arg-type]


MAY_BE_ZERO = {
    *("drain", "drain_idle", "drain_notice", "maximum_associations", "maximum_length"),
    *("operations_invoked", "operations_performed", "maximum_matches", "maximum_discarded"),
}


@EACH_FIELD
def test_zero_only_where_it_means_something(options: Any, name: str) -> None:
    if name in MAY_BE_ZERO:
        assert getattr(options(**{name: 0}), name) == 0
    else:
        with pytest.raises(ValueError, match=f"{options.__name__}.{name} must be "):
            options(**{name: 0})


@EACH_FIELD
def test_none_only_where_it_is_no_limit(options: Any, name: str) -> None:
    if "None" in options.__annotations__[name]:
        assert getattr(options(**{name: None}), name) is None
    else:
        with pytest.raises(TypeError, match=f"{options.__name__}.{name} must be "):
            options(**{name: None})


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("maximum_length", [1, 6, 7, 9, 16383, 1 << 32], [0, 8, 10, 16382, (1 << 32) - 2]),
        ("maximum_associate_length", [1, 67, 1 << 32], [68, (1 << 32) - 1]),
        ("operations_invoked", [65536], [65535]),
        ("operations_performed", [65536, ByRole(1, 65536), ByRole(-1, 1)], [65535, ByRole(0, 65535)]),
    ],
)
def test_what_the_standard_has_room_for(name: str, wrong: list[Any], right: list[Any]) -> None:
    for value in wrong:
        with pytest.raises(ValueError, match=f"Limits.{name} must be "):
            Limits(**{name: value})
    for value in right:
        assert getattr(Limits(**{name: value}), name) == value


def test_what_does_not_depend_on_the_role() -> None:
    with pytest.raises(TypeError, match=r"Timeouts\.connect must be a number"):
        Timeouts(connect=ByRole(1.0, 2.0))  # type: ignore[arg-type]


@BOTH
def test_an_unknown_field(options: Any) -> None:
    name = next(iter(options.__annotations__))
    with pytest.raises(TypeError, match=f"has no '{name}s'; did you mean {name}\\?"):
        options(**{f"{name}s": 1})
    with pytest.raises(TypeError, match=f"has no 'qqq'; there are {name}, "):
        options(qqq=1)
    with pytest.raises(TypeError):
        options(1)


# what they are


@BOTH
def test_they_do_not_change(options: Any) -> None:
    made, name = options(), next(iter(options.__annotations__))
    for changed in (name, "x"):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(made, changed, 1)
        with pytest.raises(AttributeError, match="immutable"):
            delattr(made, changed)
    assert made == options()


def test_they_are_values() -> None:
    one, same, other = Limits(read_budget=5), Limits(read_budget=5), Limits(read_budget=6)
    assert one == same != other
    assert len({one, same, other}) == 2
    assert Limits() != Timeouts()
    assert repr(one) == "Limits(read_budget=5)"
    assert eval(repr(Timeouts(idle=ByRole(1.0, None)))) == Timeouts(idle=ByRole(1.0, None))
    assert copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one


def test_the_standard_library_takes_them_for_dataclasses() -> None:
    hasty = Timeouts(dimse=5.0)
    assert dataclasses.replace(hasty, close=1.0) == Timeouts(dimse=5.0, close=1.0)
    with pytest.raises(ValueError, match=r"Timeouts\.close"):
        dataclasses.replace(hasty, close=-1.0)
    assert {field.name: field.default for field in dataclasses.fields(Limits)} == vars(Limits())
    assert dataclasses.asdict(hasty)["dimse"] == 5.0


def test_by_role() -> None:
    assert [of_role(Timeouts.idle, requestor=requestor) for requestor in (True, False)] == [None, 300.0]
    assert [of_role(Timeouts(idle=7).idle, requestor=requestor) for requestor in (True, False)] == [7, 7]


def test_the_shortest() -> None:
    names = ("acse", "artim", "dimse", "receive", "write", "handler", "release", "close")
    never: dict[str, Any] = dict.fromkeys(names)
    times: Any = Timeouts(**never, idle=ByRole(2.0, 3.0), cancel=4.0, connect=0.1, drain=0.1)
    assert [times.shortest(requestor=requestor) for requestor in (True, False)] == [2.0, 3.0]
    assert dataclasses.replace(times, idle=None).shortest(requestor=True) == 4.0


# who takes them


def archived(address: str, **options: Any) -> object:
    return serve_archive(Archive("nowhere"), address, **options)


DOORS = pytest.mark.parametrize("door", [associate, serve, AssociationPool, archived])


@DOORS
@EACH_FIELD
def test_a_field_by_itself_is_told_its_place(door: Callable[..., Any], options: type, name: str) -> None:
    keyword, place = (name, "limits") if options is Limits else (f"{name}_timeout", "timeouts")
    advice = rf"takes no '{keyword}': write {place}={options.__name__}\({name}=\.\.\.\)"
    with pytest.raises(TypeError, match=advice):
        door(ADDRESS, **{keyword: 1})


@DOORS
def test_any_other_keyword_is_a_mistake(door: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="qqq"):
        door(ADDRESS, qqq=1)


@DOORS
@pytest.mark.parametrize("wrong", [None, 5, {"dimse": 5}, "swapped", Timeouts])
def test_options_of_another_type(door: Callable[..., Any], wrong: object) -> None:
    for name, swapped in (("timeouts", Limits()), ("limits", Timeouts())):
        with pytest.raises(TypeError, match=f"takes {name} of type"):
            door(ADDRESS, **{name: swapped if wrong == "swapped" else wrong})


def keywords(function: Callable[..., Any]) -> dict[str, tuple[object, object]]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: (p.annotation, p.default) for p in parameters if p.kind is p.KEYWORD_ONLY}


def test_a_pool_takes_what_associate_takes() -> None:
    own = {"size", "operations"}
    taken = {name: taken for name, taken in keywords(AssociationPool.__init__).items() if name not in own}
    assert {name: default for name, (_, default) in taken.items()} == {
        name: default for name, (_, default) in keywords(associate).items()
    }


def test_an_archive_is_served_as_serve_does() -> None:
    given = {"c_store", "c_find", "c_get", "c_move", "destinations", "unknown_storage"}
    own = {"maximum_retrievals", "relational"}
    taken = {name: default for name, (_, default) in keywords(serve_archive).items() if name not in own}
    assert taken == {name: default for name, (_, default) in keywords(serve).items() if name not in given}


def test_a_pool_has_the_operations_of_its_limits() -> None:
    assert AssociationPool(ADDRESS)._operations == OPERATIONS
    assert AssociationPool(ADDRESS, limits=Limits(operations_invoked=4))._operations == 4
    assert AssociationPool(ADDRESS, operations=2, limits=Limits(operations_invoked=4))._operations == 2
    for wrong in ({"size": 0}, {"operations": 0}, {"limits": Limits(operations_invoked=0)}):
        with pytest.raises(ValueError, match="at least one"):
            AssociationPool(ADDRESS, **wrong)
