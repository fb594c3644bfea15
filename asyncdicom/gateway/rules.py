"""Routing rules: tables of patterns, in order, which say where an instance goes.

    [[routes]]
    name = "chest CT to AI"
    when = { calling = "CT_*", Modality = ["CT", "PT"], BodyPartExamined = "/CHEST/i", not.Rows = 64 }
    to = ["AI", "PACS"]              # each of these; or one of the two below
    # first_of = ["PACS", "BACKUP"]  # the first that can be reached
    # spread = ["AI1", "AI2"]        # one of them, the same for all of a patient
    # to = ["TENANT-{called}"]       # the destination of this name, if there is one
    priority = "urgent"              # urgent, normal (the default), bulk
    stop = true                      # the rules below are not asked

    [[routes]]
    default = true                   # when no rule above has fitted
    to = ["PACS"]

All conditions of `when` must hold, none of `not`; the patterns are those of `patterns`. `spread_by` is
"patient" (the default), "study" or "instance". `to = []` keeps the instance here, and that is all. Instead
of these a rule may have `function`, the name of a Python function that gives names of destinations: an entry
point of the group `asyncdicom.routes`.

With ``when = { stable = 60 }`` (and other conditions; ``when = "stable"`` is that alone) instances do not go
when they come, but when nothing has come for their study for so many seconds: all of the study that fit, and
of one that gets more later, what is new. Of who has sent them only `calling` is known then.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from asyncdicom.archive.index.record import WANTED_TAGS
from asyncdicom.gateway.facts import FORGOTTEN, Facts, Wanted, picked, wanted_of
from asyncdicom.gateway.patterns import Test, test_of
from asyncdicom.gateway.template import Template, check_known, filled, parse_parts, tags_of
from asyncdicom.toml_lines import Key

__all__ = [
    "PRIORITIES",
    "Decision",
    "Explained",
    "RouteFunction",
    "RuleError",
    "Rules",
    "Target",
    "parse_rules",
]

PRIORITIES = {"urgent": 0, "normal": 1, "bulk": 2}
"""What goes first has the smaller number."""

NO_RULE = "no rule fits"

RouteFunction = Callable[[Facts], Iterable[str]]
"""Gives the names of the destinations of an instance. It runs in a thread, between receiving and storing."""

STABLE = 60.0
"""Seconds for which nothing has come for a study, if a rule says no others."""

_LONGEST_QUIET = 86400

_WAYS = ("to", "first_of", "spread", "function")
_KEYS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "when": (dict, str),
    "to": list,
    "first_of": list,
    "spread": list,
    "spread_by": str,
    "function": str,
    "priority": str,
    "stop": bool,
    "default": bool,
}
# What instances have in common that go the same way: the first of these elements that has a value.
_SPREAD_BY: dict[str, tuple[tuple[int, str], ...]] = {
    "patient": ((0x00100020, "LO"), (0x0020000D, "UI")),
    "study": ((0x0020000D, "UI"),),
    "instance": ((0x00080018, "UI"),),
}


class RuleError(ValueError):
    """A rule is wrong; `key` is the way to what is wrong."""

    def __init__(self, message: str, key: Key) -> None:
        super().__init__(message)
        self.key = key


class _Told(Exception):
    """Why a rule failed, in words that are about no patient."""


class Target(NamedTuple):
    """Where an instance goes: to the first of these destinations that can be reached."""

    destinations: tuple[str, ...]
    priority: int
    rule: str


class Decision(NamedTuple):
    """Where an instance goes, and why an operator should look at it ("": there is no need to)."""

    targets: tuple[Target, ...]
    unrouted: str = ""
    is_kept: bool = False
    """Whether a rule that fits wants it here: it is for stable studies, or names no destination."""


class Explained(NamedTuple):
    """What a rule says about an instance."""

    rule: str
    fits: bool
    why: str
    targets: tuple[Target, ...] = ()


class _Condition(NamedTuple):
    wanted: Wanted
    test: Test
    pattern: object
    negated: bool

    def holds(self, facts: Facts) -> bool:
        return any(map(self.test, facts.values(self.wanted))) != self.negated

    def __str__(self) -> str:
        return f"{self.wanted.name} {'does not fit' if self.negated else 'fits'} {self.pattern!r}"


class _Rule(NamedTuple):
    name: str
    conditions: tuple[_Condition, ...]
    way: str
    destinations: tuple[str, ...]
    function: RouteFunction | None
    spread_by: str
    priority: int
    stop: bool
    default: bool
    stable: float | None = None
    """Seconds for which nothing has come for the study; None: it is for what just comes."""

    templates: tuple[Template, ...] = ()
    """Names of destinations that are made of what an instance is."""

    def fits(self, facts: Facts) -> bool:
        unknown = ""
        for condition in self.conditions:
            if not facts.knows(condition.wanted):
                unknown = condition.wanted.name
            elif not condition.holds(facts):
                return False
        if unknown:
            raise _Told(f"{unknown} is not known any more")
        return True

    def targets(self, facts: Facts, known: Collection[str]) -> tuple[Target, ...]:
        chosen = self.destinations
        if self.function is not None:
            chosen = _called(self.function, facts, known)
        elif self.way == "first_of":
            return (Target(chosen, self.priority, self.name),)
        elif self.way == "spread":
            chosen = (_spread(chosen, facts, self.spread_by),)
        named = [self._named(template, facts, known) for template in self.templates]
        return tuple(Target((name,), self.priority, self.name) for name in (*chosen, *named))

    @staticmethod
    def _named(template: Template, facts: Facts, known: Collection[str]) -> str:
        for part in template:
            if isinstance(part, Wanted) and not facts.knows(part):
                raise _Told(f"{part.name} is not known any more")
        name = filled(template, facts, str)
        if name not in known:  # what is in it may be about a patient: it is not told
            text = "".join(part if isinstance(part, str) else f"{{{part.name}}}" for part in template)
            raise _Told(f"there is no destination of the name that {text!r} gives")
        return name

    def why(self, facts: Facts) -> str:
        """Name the first condition that does not hold, or all that do."""
        if self.default:
            return "it is the default"
        for condition in self.conditions:
            if not condition.holds(facts):
                values = "\\".join(facts.values(condition.wanted))
                fits = "fits" if condition.negated else "does not fit"
                return f"{condition.wanted.name} is {values!r}, which {fits} {condition.pattern!r}"
        return ", ".join(map(str, self.conditions)) or "it has no condition"


class Rules:
    """The rules of a gateway, in their order. Made by `parse_rules`."""

    def __init__(self, rules: Iterable[_Rule], known: Collection[str]) -> None:
        self._known = frozenset(known)
        self._rules: list[_Rule] = []
        self._default: _Rule | None = None
        for rule in rules:
            if rule.default:
                self._default = rule
            else:
                self._rules.append(rule)
        every = [*self._rules, *([self._default] if self._default is not None else [])]
        self.tags = picked(
            [c.wanted.tag for rule in every for c in rule.conditions if c.wanted.tag]
            + [tag for rule in every if rule.way == "spread" for tag, _ in _SPREAD_BY[rule.spread_by]]
            + [tag for rule in every for template in rule.templates for tag in tags_of(template)]
            + [tag for rule in every if rule.function is not None for tag in WANTED_TAGS]
        )
        """The elements that have to be picked out of a data set, so that the rules can be asked.

        Functions are given those that the index has.
        """

    def __len__(self) -> int:
        return len(self._rules) + (self._default is not None)

    @property
    def groups(self) -> set[tuple[str, ...]]:
        """Give the groups that a rule chooses the first of."""
        default = [] if self._default is None else [self._default]
        return {rule.destinations for rule in (*self._rules, *default) if rule.way == "first_of"}

    def names_condition(self, name: str) -> bool:
        """Tell whether a rule looks at something."""
        return any(condition.wanted.name == name for rule in self._rules for condition in rule.conditions)

    @property
    def has_functions(self) -> bool:
        """Whether a rule is a function of the user's, which may take its time."""
        default = [] if self._default is None else [self._default]
        return any(rule.function is not None for rule in (*self._rules, *default))

    @property
    def quiets(self) -> set[float]:
        """Give after how many seconds of quiet studies are asked about."""
        return {rule.stable for rule in self._rules if rule.stable is not None}

    def decide_all(self, facts: Facts) -> tuple[list[tuple[Target, float | None]], str]:
        """Say where an instance goes in all: at once (None), or when its study is stable (seconds).

        And why an operator should look at it ("": no need to). Never raises.
        """
        decisions = [(quiet, self.decide(facts, quiet)) for quiet in (None, *sorted(self.quiets))]
        targets = [(target, quiet) for quiet, decision in decisions for target in decision.targets]
        return targets, "; ".join(dict.fromkeys(each.unrouted for _, each in decisions if each.unrouted))

    def decide(self, facts: Facts, stable: float | None = None) -> Decision:
        """Say where an instance goes that has come, or whose study is `stable` since so many seconds.

        Never raises.

        A rule that fails (a function of the user's may) makes the instance one to look at; the other rules
        are asked all the same, unless it would have stopped them, or they are the default. A destination that
        several rules name gets the instance once, at the most urgent priority.
        """
        targets: dict[tuple[str, ...], Target] = {}
        failed: list[str] = []
        any_fits = is_kept = False
        for rule in self._rules:
            try:
                if stable is not None and rule.stable is None and not rule.stop:
                    continue  # it is for what just comes, and keeps nothing from the others
                if not rule.fits(facts):
                    continue
                any_fits = True
                found = rule.targets(facts, self._known) if rule.stable == stable else ()
                is_kept |= not found
                _add(targets, found)
            except Exception as error:
                failed.append(_failure(rule, error))
            if rule.stop:
                break
        if not any_fits and not failed and self._default is not None and stable is None:
            try:
                _add(targets, self._default.targets(facts, self._known))
                any_fits = True
            except Exception as error:
                failed.append(_failure(self._default, error))
        unrouted = "; ".join(failed) if failed else "" if any_fits or stable is not None else NO_RULE
        return Decision(tuple(targets.values()), unrouted, is_kept)

    def explain(self, facts: Facts) -> list[Explained]:
        """Say of each rule whether it fits an instance, and why. For the operator: it names values."""
        said: list[Explained] = []
        any_fits = stopped = False
        for rule in [*self._rules, *([self._default] if self._default is not None else [])]:
            if stopped or (rule.default and any_fits):
                said.append(Explained(rule.name, False, "not asked, because of a rule above"))
                continue
            try:
                fits = rule.fits(facts)
                targets = rule.targets(facts, self._known) if fits else ()
                said.append(Explained(rule.name, fits, rule.why(facts), targets))
            except Exception as error:
                said.append(Explained(rule.name, False, _failure(rule, error)))
                fits = True  # nobody knows
            any_fits |= fits
            stopped = fits and rule.stop
        return said


def _add(targets: dict[tuple[str, ...], Target], more: Iterable[Target]) -> None:
    for target in more:
        before = targets.get(target.destinations)
        if before is None or target.priority < before.priority:
            targets[target.destinations] = target


def _called(function: RouteFunction, facts: Facts, known: Collection[str]) -> tuple[str, ...]:
    """Call a function of the user's, which may do anything; what it gives may be about a patient."""
    try:
        found = function(facts)
        chosen = () if isinstance(found, str | bytes) else tuple(found)
    except Exception:
        raise
    except BaseException as error:  # sys.exit(), say: it ends no server, and loses no instance
        raise _Told(type(error).__name__) from error
    if isinstance(found, str | bytes):
        raise _Told("its function gives a text, and not a list of names")
    if not all(isinstance(name, str) and name in known for name in chosen):
        raise _Told("its function names a destination that there is not")
    return chosen


def _failure(rule: _Rule, error: Exception) -> str:
    """Say that a rule failed; of what others say about it only the kind: it may be about a patient."""
    return f"rule {rule.name!r} failed ({error if isinstance(error, _Told) else type(error).__name__})"


def _spread(names: tuple[str, ...], facts: Facts, by: str) -> str:
    """Choose by the highest hash: a destination more or less moves only what it gets or had."""
    key = next((text for tag, vr in _SPREAD_BY[by] if (text := facts.text(tag, vr))), "")
    return max(names, key=lambda name: hashlib.sha256(f"{name}\0{key}".encode("utf-8", "replace")).digest())


# reading them


def parse_rules(
    routes: Iterable[Mapping[str, Any]],
    destinations: Collection[str],
    functions: Mapping[str, RouteFunction] | None = None,
) -> Rules:
    """Understand the tables `routes` of a configuration; `destinations` are the names that there are.

    Raises `RuleError` for the first thing that is wrong: everything is checked here, nothing later.
    """
    rules = [
        _parse_rule(table, ("routes", number), number, destinations, functions or {})
        for number, table in enumerate(routes)
    ]
    names: set[str] = set()
    defaults = 0
    for number, rule in enumerate(rules):
        if rule.name in names:
            raise RuleError(f"two routes are named {rule.name!r}", ("routes", number, "name"))
        names.add(rule.name)
        defaults += rule.default
        if defaults > 1:
            raise RuleError("there is more than one default route", ("routes", number, "default"))
        unknown = sorted(FORGOTTEN & {condition.wanted.name for condition in rule.conditions})
        if unknown and rule.stop and any(below.stable is not None for below in rules[number + 1 :]):
            raise RuleError(
                f"{rule.name} stops rules for stable studies by {unknown[0]}, which is not known any more "
                "then: they go above it",
                ("routes", number, "stop"),
            )
    return Rules(rules, destinations)


def _parse_rule(
    table: Mapping[str, Any],
    where: Key,
    number: int,
    destinations: Collection[str],
    functions: Mapping[str, RouteFunction],
) -> _Rule:
    if not isinstance(table, Mapping):
        raise RuleError("routes are tables: [[routes]]", where)
    _check_keys(table, where)
    name = table.get("name", f"route {number + 1}")
    way, chosen, templates = _parse_way(table, where, destinations, functions)
    default = table.get("default", False)
    if default and "when" in table:
        raise RuleError(f"{name}: the default route has no conditions (when)", (*where, "when"))
    if not default and "when" not in table:
        raise RuleError(
            f"{name}: say when it is taken: when = {{ ... }}; for all instances when = {{}}, for those that "
            "no other route takes default = true",
            where,
        )
    spread_by = table.get("spread_by", "patient")
    if spread_by not in _SPREAD_BY or ("spread_by" in table and way != "spread"):
        raise RuleError(
            f"{name}: spread_by, of spread, is one of {', '.join(_SPREAD_BY)}", (*where, "spread_by")
        )
    priority = table.get("priority", "normal")
    if priority not in PRIORITIES:
        raise RuleError(f"{name}: priority is one of {', '.join(PRIORITIES)}", (*where, "priority"))
    when, stable = _parse_stable(table.get("when", {}), (*where, "when"))
    conditions = _parse_conditions(when, (*where, "when"))
    if stable is not None and (unknown := FORGOTTEN & {condition.wanted.name for condition in conditions}):
        raise RuleError(f"{name}: {min(unknown)} is not known any more of a stable study", (*where, "when"))
    try:
        check_known(templates if stable is not None else ())
    except ValueError as error:
        raise RuleError(f"{name}: {error}", (*where, way)) from None
    return _Rule(
        name=name,
        conditions=conditions,
        way=way,
        destinations=chosen,
        function=functions[table[way]] if way == "function" else None,
        spread_by=spread_by,
        priority=PRIORITIES[priority],
        stop=table.get("stop", False),
        default=default,
        stable=stable,
        templates=templates,
    )


def _parse_stable(when: Mapping[str, Any] | str, where: Key) -> tuple[Mapping[str, Any], float | None]:
    """Give the conditions on instances, and for how long the study has to be quiet, if it has to be."""
    if isinstance(when, str):
        if when != "stable":
            raise RuleError(f'when is a table of conditions, or "stable", not {when!r}', where)
        return {}, STABLE
    if "stable" not in when:
        return when, None
    quiet = when["stable"]
    if type(quiet) not in (int, float) or not 0 < quiet <= _LONGEST_QUIET:
        raise RuleError(f"stable is a number of seconds, at most {_LONGEST_QUIET}", (*where, "stable"))
    return {key: pattern for key, pattern in when.items() if key != "stable"}, float(quiet)


def _check_keys(table: Mapping[str, Any], where: Key) -> None:
    for key, value in table.items():
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise RuleError(f"unknown key {key!r}{meant}; known are {', '.join(_KEYS)}", (*where, key))
        kinds = _KEYS[key]
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        if type(value) not in kinds:
            names = " or ".join(kind.__name__ for kind in kinds)
            raise RuleError(f"{key} must be of type {names}", (*where, key))


def _parse_way(
    table: Mapping[str, Any],
    where: Key,
    destinations: Collection[str],
    functions: Mapping[str, RouteFunction],
) -> tuple[str, tuple[str, ...], tuple[Template, ...]]:
    ways = [way for way in _WAYS if way in table]
    if len(ways) != 1:
        raise RuleError(f"a route has one of {', '.join(_WAYS)}, and only one", where)
    way = ways[0]
    known = functions if way == "function" else destinations
    chosen = tuple([table[way]] if way == "function" else table[way])
    if not chosen and way != "to":
        raise RuleError(f"{way} names no destination", (*where, way))
    what = "function" if way == "function" else "destination"
    if strange := [name for name in chosen if not isinstance(name, str)]:
        raise RuleError(f"there is no {what} {strange[0]!r}", (*where, way))
    if len(set(chosen)) < len(chosen):
        raise RuleError(f"{way} names a destination twice", (*where, way))
    made = tuple(name for name in chosen if way == "to" and "{" in name)
    try:
        templates = tuple(map(parse_parts, made))
    except ValueError as error:
        raise RuleError(f"{way}: {error}", (*where, way)) from None
    chosen = tuple(name for name in chosen if name not in made)
    for name in chosen:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise RuleError(f"there is no {what} {name!r}{meant}", (*where, way))
    return way, () if way == "function" else chosen, templates


def _parse_conditions(
    table: Mapping[str, Any], where: Key, *, negated: bool = False
) -> tuple[_Condition, ...]:
    conditions: list[_Condition] = []
    for name, pattern in table.items():
        if name == "not" and not negated:
            if not isinstance(pattern, dict):
                raise RuleError('not has conditions: not.Modality = "SR"', (*where, name))
            conditions += _parse_conditions(pattern, (*where, name), negated=True)
            continue
        try:
            wanted = wanted_of(name)
            conditions.append(_Condition(wanted, test_of(pattern, wanted.name), pattern, negated))
        except ValueError as error:
            raise RuleError(f"{name}: {error}", (*where, name)) from None
    return tuple(conditions)
