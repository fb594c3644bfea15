from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from asyncdicom.ul import protocol
from asyncdicom.ul.statetable import ACTIONS, OTHERWISE, TRANSITIONS, Action, Effect, Event, State, transition

STANDARD = runpy.run_path(str(Path(__file__).parents[1] / "standard" / "table_9_10.py"))

CELLS = {
    (State[name.upper()], Event(int(event))): action
    for name, *cells in map(str.split, STANDARD["BY_STATE"].strip().splitlines())
    for event, action in (cell.split(":") for cell in cells)
}
WORDS = STANDARD["NEXT_STATES"].split()
NEXT_STATES = dict(zip(WORDS[::2], WORDS[1::2], strict=True))


def name(action: Action) -> str:
    return action.name.replace("_", "-")


def test_the_transcription_is_whole() -> None:
    assert {state for state, _ in CELLS} == set(State)
    assert {event for _, event in CELLS} == set(Event)
    assert len(CELLS) == 123
    assert set(CELLS.values()) == set(NEXT_STATES) == {name(action) for action in Action}
    assert len(Action) == 28


@pytest.mark.parametrize("state", State)
def test_every_cell_of_table_9_10(state: State) -> None:
    for event in Event:
        outcome = transition(state, event, requestor=True)
        assert (outcome and name(outcome[0])) == CELLS.get((state, event)), (state, event)


def test_no_other_cells() -> None:
    assert {key: name(action) for key, action in TRANSITIONS.items()} == CELLS


@pytest.mark.parametrize("action", Action, ids=name)
def test_actions_lead_where_the_standard_says(action: Action) -> None:
    first, _, second = NEXT_STATES[name(action)].partition("/")
    assert ACTIONS[action].next_state == int(first)
    assert (action in OTHERWISE) == bool(second)
    if second:
        assert OTHERWISE[action].next_state == int(second)


@pytest.mark.parametrize("action", Action, ids=name)
def test_actions_do_what_the_standard_says(action: Action) -> None:
    effects = ACTIONS[action].effects
    sends = [effect.name.removeprefix("SEND_") for effect in effects if effect.name.startswith("SEND_")]
    sent = STANDARD["SENDS"].get(name(action), "P_DATA")
    assert sends == ([sent] if sent != "P_DATA" else [])  # P-DATA passes by the table
    assert (Effect.START_ARTIM in effects) == (name(action) in STANDARD["STARTS_ARTIM"])
    assert (Effect.STOP_ARTIM in effects) == (name(action) in STANDARD["STOPS_ARTIM"])
    assert (Effect.CLOSE_TRANSPORT in effects) == (name(action) in STANDARD["CLOSES"])


def test_every_effect_is_carried_out() -> None:
    carried_out = [*protocol._SEND_THE_PDU, *protocol._INDICATIONS, *protocol._EFFECTS]
    assert sorted(carried_out, key=lambda effect: effect.value) == list(Effect)
    assert {
        effect for outcome in (*ACTIONS.values(), *OTHERWISE.values()) for effect in outcome.effects
    } == set(Effect)


def test_ae_6_rejects_what_the_provider_cannot_take() -> None:
    accepted = transition(State.STA2, Event.EVT6, requestor=False)
    assert accepted == (Action.AE_6, (Effect.STOP_ARTIM, Effect.INDICATE_ASSOCIATE), State.STA3)
    rejected = transition(State.STA2, Event.EVT6, requestor=False, acceptable=False)
    effects = (Effect.STOP_ARTIM, Effect.SEND_ASSOCIATE_RJ, Effect.START_ARTIM)
    assert rejected == (Action.AE_6, effects, State.STA13)


@pytest.mark.parametrize(("requestor", "state"), [(True, State.STA9), (False, State.STA10)])
def test_ar_8_depends_on_the_side(requestor: bool, state: State) -> None:
    outcome = transition(State.STA7, Event.EVT12, requestor=requestor)
    assert outcome == (Action.AR_8, (Effect.INDICATE_RELEASE_COLLISION,), state)


@pytest.mark.parametrize("requestor", [True, False])
@pytest.mark.parametrize("acceptable", [True, False])
def test_the_conditions_touch_nothing_else(requestor: bool, acceptable: bool) -> None:
    for (state, event), action in TRANSITIONS.items():
        outcome = transition(state, event, requestor=requestor, acceptable=acceptable)
        if action not in OTHERWISE:
            assert outcome == (action, *ACTIONS[action])


def test_names_are_the_numbers_of_the_standard() -> None:
    assert [state.name for state in State] == [f"STA{number}" for number in range(1, 14)]
    assert [event.name for event in Event] == [f"EVT{number}" for number in range(1, 20)]
    assert list(State) == list(range(1, 14))
    assert list(Event) == list(range(1, 20))
