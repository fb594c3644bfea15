"""Routing rules: which of them fit, where an instance goes then, and what is said of rules that are wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.data.elements import Element
from asyncdicom.gateway.config import GatewayConfigError, parse_gateway
from asyncdicom.gateway.facts import Facts
from asyncdicom.gateway.patterns import test_of as pattern
from asyncdicom.gateway.rules import Rules, parse_rules
from asyncdicom.uid import EXPLICIT_VR_BIG_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN

CT = "1.2.840.10008.5.1.4.1.1.2"
KNOWN = ["PACS", "AI", "AI2", "BACKUP"]


def facts(elements: dict[int, tuple[str, str | bytes]] | None = None, **other: Any) -> Facts:
    found = {
        tag: Element(tag, vr, value if isinstance(value, bytes) else value.encode())
        for tag, (vr, value) in (elements or {}).items()
    }
    return Facts(**({"transfer_syntax": EXPLICIT_VR_LITTLE_ENDIAN, "elements": found} | other))


def rules(*routes: dict[str, Any], **functions: Any) -> Rules:
    return parse_rules(routes, KNOWN, functions)


def goes_to(rules: Rules, facts: Facts) -> list[str]:
    return ["|".join(target.destinations) for target in rules.decide(facts).targets]


CHEST = facts(
    {0x00080060: ("CS", "CT"), 0x00180015: ("CS", "CHEST "), 0x00280010: ("US", b"\x00\x02")},
    calling="CT_1",
    called="GATE",
    address="10.0.0.7",
    certificate=("sha256:ab", "dns:ct1.example"),
    sop_class=CT,
    size=3 << 20,
)


@pytest.mark.parametrize(
    ("when", "fits"),
    [
        ({}, True),
        ({"calling": "CT_1"}, True),
        ({"calling": "CT_*"}, True),
        ({"calling": "CT_?"}, True),
        ({"calling": "=CT_*"}, False),
        ({"calling": "ct_1"}, False),
        ({"calling": ["MR", "CT_1"]}, True),
        ({"called": "GATE", "calling": "MR"}, False),
        ({"address": "10.0.0.0/16"}, True),
        ({"address": "10.1.0.0/16"}, False),
        ({"address": "10.0.*"}, True),
        ({"certificate": "dns:*.example"}, True),
        ({"certificate": "sha256:cd"}, False),
        ({"sop_class": "CT Image Storage"}, True),
        ({"sop_class": "1.2.840.10008.5.1.4.1.1.2"}, True),
        ({"sop_class": "MR Image Storage"}, False),
        ({"transfer_syntax": "Explicit VR Little Endian"}, True),
        ({"size": "> 2 MiB"}, True),
        ({"size": "<= 2 MiB"}, False),
        ({"Modality": ["CT", "PT"]}, True),
        ({"Modality": "/^(CT|PT)$/"}, True),
        ({"BodyPartExamined": "/chest|thorax/i"}, True),
        ({"BodyPartExamined": "/chest/"}, False),
        ({"0018,0015": "CHEST"}, True),
        ({"(0018,0015)": "CHEST"}, True),
        ({"Rows": 512}, True),
        ({"Rows": ">= 513"}, False),
        ({"StationName": ""}, True),
        ({"StationName": "?*"}, False),
        ({"StationName": "> 1"}, False),
        ({"not": {"StationName": "CT9"}}, True),
        ({"not": {"Modality": "CT"}}, False),
        ({"not": {"Modality": "MR", "calling": "CT*"}}, False),
    ],
)
def test_a_rule_fits(when: dict[str, Any], fits: bool) -> None:
    table = rules({"when": when, "to": ["PACS"]})
    assert goes_to(table, CHEST) == (["PACS"] if fits else [])
    assert table.explain(CHEST)[0].fits is fits


def test_any_of_many_values_does() -> None:
    image_type = facts({0x00080008: ("CS", "ORIGINAL\\PRIMARY\\AXIAL ")})
    assert goes_to(rules({"when": {"ImageType": "AXIAL"}, "to": ["AI"]}), image_type) == ["AI"]


def test_numbers_are_read_as_they_are_encoded() -> None:
    big = facts({0x00280010: ("US", b"\x02\x00")}, transfer_syntax=EXPLICIT_VR_BIG_ENDIAN)
    assert goes_to(rules({"when": {"Rows": 512}, "to": ["AI"]}), big) == ["AI"]


def test_the_rules_name_the_elements_that_they_need() -> None:
    table = rules(
        {
            "when": {"Modality": "CT", "not": {"StationName": "X"}},
            "spread": ["AI", "AI2"],
            "spread_by": "study",
        },
        {"when": {"calling": "A"}, "to": []},
    )
    assert table.tags == {0x00080005, 0x00080060, 0x00081010, 0x0020000D}


def test_rules_are_asked_in_order_until_one_stops() -> None:
    table = rules(
        {"when": {"calling": "CT*"}, "to": ["AI"], "priority": "urgent"},
        {"when": {"Modality": "CT"}, "to": ["PACS", "AI"], "stop": True},
        {"when": {}, "to": ["BACKUP"]},
        {"default": True, "to": ["BACKUP"]},
    )
    decision = table.decide(CHEST)
    assert [(t.destinations, t.priority, t.rule) for t in decision.targets] == [
        (("AI",), 0, "route 1"),
        (("PACS",), 1, "route 2"),
    ]
    assert decision.unrouted == ""
    assert [said.fits for said in table.explain(CHEST)] == [True, True, False, False]


def test_the_default_is_for_what_no_rule_takes() -> None:
    table = rules({"default": True, "to": ["PACS"]}, {"when": {"Modality": "MR"}, "to": ["AI"]})
    assert goes_to(table, CHEST) == ["PACS"]
    assert goes_to(table, facts({0x00080060: ("CS", "MR")})) == ["AI"]


def test_what_no_rule_fits_is_unrouted() -> None:
    assert rules({"when": {"calling": "MR"}, "to": ["PACS"]}).decide(CHEST).unrouted == "no rule fits"
    assert rules().decide(CHEST).unrouted == "no rule fits"


def test_what_a_rule_keeps_here_is_not_unrouted() -> None:
    assert rules({"when": {}, "to": []}).decide(CHEST) == ((), "", True)


def test_a_rule_that_fails_is_told_and_costs_the_others_nothing() -> None:
    def broken(facts: Facts) -> Iterable[str]:
        raise RuntimeError("secret")

    table = rules(
        {"name": "mine", "when": {}, "function": "broken"},
        {"when": {}, "to": ["PACS"]},
        {"default": True, "to": ["BACKUP"]},
        broken=broken,
    )
    decision = table.decide(CHEST)
    assert [target.destinations for target in decision.targets] == [("PACS",)]
    assert decision.unrouted == "rule 'mine' failed (RuntimeError)"
    assert not table.explain(CHEST)[0].fits


def test_nothing_is_guessed_behind_a_rule_that_fails() -> None:
    """It might have stopped, or have taken the instance: then it does not go to those below, either."""
    table = rules(
        {"when": {}, "function": "broken", "stop": True},
        {"when": {}, "to": ["PACS"]},
        {"default": True, "to": ["BACKUP"]},
        broken=lambda facts: ["NOWHERE"],
    )
    decision = table.decide(CHEST)
    assert decision.targets == ()
    assert decision.unrouted == "rule 'route 1' failed (LookupError: no destination 'NOWHERE')"


def test_a_function_chooses_destinations() -> None:
    table = rules({"when": {}, "function": "mine"}, mine=lambda facts: [f"AI{facts.called[4:]}", "PACS"])
    assert goes_to(table, CHEST) == ["AI", "PACS"]


def test_a_failover_group_is_one_target() -> None:
    assert goes_to(rules({"when": {}, "first_of": ["PACS", "BACKUP"]}), CHEST) == ["PACS|BACKUP"]


@given(st.lists(st.text("0123456789", min_size=1, max_size=6), min_size=30, max_size=30, unique=True))
def test_a_patient_stays_where_it_is_when_another_destination_comes(patients: list[str]) -> None:
    def chosen(names: list[str], patient: str) -> str:
        table = rules({"when": {}, "spread": names})
        (target,) = goes_to(table, facts({0x00100020: ("LO", patient)}, size=len(patient)))
        return target

    for patient in patients:
        before, after = chosen(["AI", "AI2"], patient), chosen(["AI2", "AI", "PACS"], patient)
        assert after in (before, "PACS")


TOP = '[destinations.PACS]\naddress = "PACS@10.0.0.5:104"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[routes]]\nto = ["PACS"]', ":3: route 1: say when it is taken"),
        ('[[routes]]\nwhen = {}\nto = ["PAC"]', ":5: there is no destination 'PAC'; did you mean PACS?"),
        ("[[routes]]\nwhen = {}\nto = [1]", ":5: there is no destination 1"),
        ('[[routes]]\nwhen = {}\nto = ["PACS", "PACS"]', ":5: to names a destination twice"),
        ("[[routes]]\nwhen = {}\nfirst_of = []", ":5: first_of names no destination"),
        ("[[routes]]\nwhen = {}", ":3: a route has one of to, first_of, spread, function, and only one"),
        ('[[routes]]\nwhen = {}\nto = []\nspread = ["PACS"]', ":3: a route has one of"),
        (
            '[[routes]]\nwhen = {}\nto = []\nspread_by = "study"',
            ":6: route 1: spread_by, of spread, is one of",
        ),
        ("[[routes]]\nwhen = {}\nfunction = 'f'", ":5: there is no function 'f'"),
        (
            "[[routes]]\nwhen = {}\nstopp = true",
            ":5: unknown key 'stopp'; did you mean stop?; known are name",
        ),
        ("[[routes]]\nwhen = {}\nto = []\nstop = 1", ":6: stop must be of type bool"),
        (
            "[[routes]]\nwhen = {}\nto = []\npriority = 'now'",
            ":6: route 1: priority is one of urgent, normal",
        ),
        (
            "[[routes]]\ndefault = true\nto = []\nwhen = {}",
            ":6: route 1: the default route has no conditions",
        ),
        (
            "[[routes]]\ndefault = true\nto = []\n[[routes]]\ndefault = true\nto = []",
            ":7: there is more than one default route",
        ),
        (
            "[[routes]]\nname = 'a'\nwhen = {}\nto = []\n[[routes]]\nname = 'a'\nwhen = {}\nto = []",
            ":8: two routes are named 'a'",
        ),
        ("[[routes]]\nto = []\n[routes.when]\nModalty = 'CT'", ":6: Modalty: 'Modalty' is no keyword"),
        ("[[routes]]\nto = []\nwhen = { Modality = [] }", ":5: Modality: an empty list fits nothing"),
        ("[[routes]]\nto = []\nwhen = { Modality = true }", ":5: Modality: a pattern is a text"),
        ("[[routes]]\nto = []\nwhen = { PixelData = 'x' }", ":5: PixelData: PixelData has the VR"),
        ("[[routes]]\nto = []\nwhen = { FFFC0010 = 'x' }", ":5: FFFC0010: FFFC0010 is not between"),
        (
            "[[routes]]\nto = []\nwhen = { size = 'big' }",
            ':5: size: size is compared with a number, or as "> 100',
        ),
        ("[[routes]]\nto = []\nwhen = { not = 1 }", ":5: not has conditions"),
        ("[[routes]]\nto = []\nwhen = { not.not.size = 1 }", ":5: not: 'not' is no keyword"),
        ("[[routes]]\nto = []\nwhen = { sop_class = 'CT Image' }", "did you mean 'CT Image Storage'?"),
        (
            "[[routes]]\nto = []\nwhen = { address = '10.0.0.7/8' }",
            ":5: address: 10.0.0.7/8 has host bits set",
        ),
        ("[[routes]]\nto = []\nwhen = { calling = '/(/' }", ":5: calling: /(/ is no regular expression"),
        ("routes = 3", ":1: "),
        ("[[routes]]\nwhen = {", ": "),
    ],
)
def test_what_is_wrong_is_told_with_file_and_line(text: str, message: str) -> None:
    text = text if text.startswith("routes") else TOP + text
    with pytest.raises(GatewayConfigError, match="^" + re.escape("g.toml") + ".*" + re.escape(message)):
        parse_gateway(text, "g.toml")


@pytest.mark.parametrize(
    "text", ["(a+)+$", "(a|a)*b", "(ab){9}", ".*a.*b.*c", "(?P<x>a)", r"(a)\1", "(?<=a)b"]
)
def test_expressions_that_may_take_for_ever_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"for ever|very long"):
        pattern(f"/{text}/", "calling")


@pytest.mark.parametrize(
    "text", ["CHEST|HEAD", "^CT[0-9]+$", r"a\+b\(c\)*", "[*+({]+x", "(?:CT|MR)_.*", "a?b?"]
)
def test_other_expressions_are_taken(text: str) -> None:
    pattern(f"/{text}/", "calling")


@given(st.text(max_size=80), st.text(max_size=30))
def test_wildcards_never_fail_and_mean_what_they_say(value: str, start: str) -> None:
    literal = start.replace("*", "").replace("?", "")
    if literal[:1] in ("/", "=", "<", ">"):
        return
    assert pattern(f"{literal}*", "calling")(literal + value)
    assert pattern(f"*{literal}*", "calling")(value + literal + value)


@given(
    st.dictionaries(st.sampled_from([0x00080060, 0x00280010, 0x00080005, 0x00100020]), st.binary(max_size=99))
)
def test_any_bytes_in_elements_are_decided_on(elements: dict[int, bytes]) -> None:
    table = rules(
        {"when": {"Modality": "/CT.*/", "Rows": "> 1"}, "to": ["AI"]},
        {"when": {"not": {"Modality": "CT"}}, "spread": ["AI", "PACS"]},
        {"default": True, "to": ["BACKUP"]},
    )
    found = facts({tag: ("UN", value) for tag, value in elements.items()})
    assert table.decide(found).unrouted == ""
    assert len(table.explain(found)) == 3
