"""The DICOM Upper Layer protocol machine: PS3.8 9.2, Table 9-10, and its actions, Tables 9-6 to 9-9.

All of it is data, but for `transition` at the end, which looks things up. P-DATA passes by the table: its
rows say where it may be sent and received, but `protocol.UpperLayer` asks them once for many fragments.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import NamedTuple


class State(IntEnum):
    """PS3.8 Tables 9-1 to 9-5."""

    STA1 = 1  # idle
    STA2 = 2  # transport connection open; awaiting A-ASSOCIATE-RQ
    STA3 = 3  # awaiting the local A-ASSOCIATE response
    STA4 = 4  # awaiting the transport connection
    STA5 = 5  # awaiting A-ASSOCIATE-AC or -RJ
    STA6 = 6  # association established, ready for data transfer
    STA7 = 7  # awaiting A-RELEASE-RP
    STA8 = 8  # awaiting the local A-RELEASE response
    STA9 = 9  # release collision, requestor: awaiting the local A-RELEASE response
    STA10 = 10  # release collision, acceptor: awaiting A-RELEASE-RP
    STA11 = 11  # release collision, requestor: awaiting A-RELEASE-RP
    STA12 = 12  # release collision, acceptor: awaiting the local A-RELEASE response
    STA13 = 13  # awaiting the close of the transport connection


class Event(IntEnum):
    """The rows of PS3.8 Table 9-10; what is not said to be received is a primitive of the local user."""

    EVT1 = 1  # A-ASSOCIATE request
    EVT2 = 2  # transport connection confirmed
    EVT3 = 3  # A-ASSOCIATE-AC received
    EVT4 = 4  # A-ASSOCIATE-RJ received
    EVT5 = 5  # transport connection indicated
    EVT6 = 6  # A-ASSOCIATE-RQ received
    EVT7 = 7  # A-ASSOCIATE response, accept
    EVT8 = 8  # A-ASSOCIATE response, reject
    EVT9 = 9  # P-DATA request
    EVT10 = 10  # P-DATA-TF received
    EVT11 = 11  # A-RELEASE request
    EVT12 = 12  # A-RELEASE-RQ received
    EVT13 = 13  # A-RELEASE-RP received
    EVT14 = 14  # A-RELEASE response
    EVT15 = 15  # A-ABORT request
    EVT16 = 16  # A-ABORT received
    EVT17 = 17  # transport connection closed
    EVT18 = 18  # ARTIM timer expired
    EVT19 = 19  # unrecognized or invalid PDU received


class Action(Enum):
    """PS3.8 Tables 9-6 to 9-9."""

    AE_1 = "AE-1: ask the transport service for a connection"
    AE_2 = "AE-2: send A-ASSOCIATE-RQ"
    AE_3 = "AE-3: confirm the association: accepted"
    AE_4 = "AE-4: confirm the association: rejected, and close the connection"
    AE_5 = "AE-5: take the connection and start ARTIM"
    AE_6 = "AE-6: stop ARTIM; indicate the association, or if unacceptable send A-ASSOCIATE-RJ, start ARTIM"
    AE_7 = "AE-7: send A-ASSOCIATE-AC"
    AE_8 = "AE-8: send A-ASSOCIATE-RJ and start ARTIM"
    DT_1 = "DT-1: send P-DATA-TF"
    DT_2 = "DT-2: indicate P-DATA"
    AR_1 = "AR-1: send A-RELEASE-RQ"
    AR_2 = "AR-2: indicate the release"
    AR_3 = "AR-3: confirm the release and close the connection"
    AR_4 = "AR-4: send A-RELEASE-RP and start ARTIM"
    AR_5 = "AR-5: stop ARTIM"
    AR_6 = "AR-6: indicate P-DATA"
    AR_7 = "AR-7: send P-DATA-TF"
    AR_8 = "AR-8: indicate the release: a collision"
    AR_9 = "AR-9: send A-RELEASE-RP"
    AR_10 = "AR-10: confirm the release"
    AA_1 = "AA-1: send A-ABORT (source: service user) and start or restart ARTIM"
    AA_2 = "AA-2: stop ARTIM and close the connection"
    AA_3 = "AA-3: indicate the abort and close the connection"
    AA_4 = "AA-4: indicate a provider abort"
    AA_5 = "AA-5: stop ARTIM"
    AA_6 = "AA-6: ignore the PDU"
    AA_7 = "AA-7: send A-ABORT"
    AA_8 = "AA-8: send A-ABORT (source: service provider), indicate a provider abort and start ARTIM"


class Effect(Enum):
    """What an action does, as values: `protocol.UpperLayer` carries out each of them.

    Opening the connection (AE-1) is not among them, its caller does that; nor is P-DATA.
    """

    CLOSE_TRANSPORT = 1
    START_ARTIM = 2
    STOP_ARTIM = 3
    SEND_ASSOCIATE_RQ = 4
    SEND_ASSOCIATE_AC = 5
    SEND_ASSOCIATE_RJ = 6
    SEND_RELEASE_RQ = 7
    SEND_RELEASE_RP = 8
    SEND_USER_ABORT = 9
    SEND_PROVIDER_ABORT = 10
    INDICATE_ASSOCIATE = 11
    CONFIRM_ACCEPT = 12
    CONFIRM_REJECT = 13
    INDICATE_RELEASE = 14
    INDICATE_RELEASE_COLLISION = 15
    CONFIRM_RELEASE = 16
    INDICATE_ABORT = 17
    INDICATE_PROVIDER_ABORT = 18


# PS3.8 Table 9-10. A dot is a blank cell: the event cannot happen in that state, or means nothing there.
TABLE_9_10 = """
         Sta1  Sta2  Sta3  Sta4  Sta5  Sta6  Sta7  Sta8  Sta9  Sta10 Sta11 Sta12 Sta13
  Evt1   AE-1  .     .     .     .     .     .     .     .     .     .     .     .
  Evt2   .     .     .     AE-2  .     .     .     .     .     .     .     .     .
  Evt3   .     AA-1  AA-8  .     AE-3  AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-6
  Evt4   .     AA-1  AA-8  .     AE-4  AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-6
  Evt5   AE-5  .     .     .     .     .     .     .     .     .     .     .     .
  Evt6   .     AE-6  AA-8  .     AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-7
  Evt7   .     .     AE-7  .     .     .     .     .     .     .     .     .     .
  Evt8   .     .     AE-8  .     .     .     .     .     .     .     .     .     .
  Evt9   .     .     .     .     .     DT-1  .     AR-7  .     .     .     .     .
  Evt10  .     AA-1  AA-8  .     AA-8  DT-2  AR-6  AA-8  AA-8  AA-8  AA-8  AA-8  AA-6
  Evt11  .     .     .     .     .     AR-1  .     .     .     .     .     .     .
  Evt12  .     AA-1  AA-8  .     AA-8  AR-2  AR-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-6
  Evt13  .     AA-1  AA-8  .     AA-8  AA-8  AR-3  AA-8  AA-8  AR-10 AR-3  AA-8  AA-6
  Evt14  .     .     .     .     .     .     .     AR-4  AR-9  .     .     AR-4  .
  Evt15  .     .     AA-1  AA-2  AA-1  AA-1  AA-1  AA-1  AA-1  AA-1  AA-1  AA-1  .
  Evt16  .     AA-2  AA-3  .     AA-3  AA-3  AA-3  AA-3  AA-3  AA-3  AA-3  AA-3  AA-2
  Evt17  .     AA-5  AA-4  AA-4  AA-4  AA-4  AA-4  AA-4  AA-4  AA-4  AA-4  AA-4  AR-5
  Evt18  .     AA-2  .     .     .     .     .     .     .     .     .     .     AA-2
  Evt19  .     AA-1  AA-8  .     AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-7
"""


def _read_table(text: str) -> dict[tuple[State, Event], Action]:
    rows = [line.split() for line in text.strip().splitlines()[1:]]
    return {
        (state, event): Action[cell.replace("-", "_")]
        for event, row in zip(Event, rows, strict=True)
        for state, cell in zip(State, row[1:], strict=True)
        if cell != "."
    }


TRANSITIONS = _read_table(TABLE_9_10)


class Outcome(NamedTuple):
    """What an action does, in this order, and the state it leads to."""

    effects: tuple[Effect, ...]
    next_state: State


def _outcome(next_state: State, *effects: Effect) -> Outcome:
    return Outcome(effects, next_state)


# fmt: off
ACTIONS = {
    Action.AE_1:  _outcome(State.STA4),
    Action.AE_2:  _outcome(State.STA5, Effect.SEND_ASSOCIATE_RQ),
    Action.AE_3:  _outcome(State.STA6, Effect.CONFIRM_ACCEPT),
    Action.AE_4:  _outcome(State.STA1, Effect.CONFIRM_REJECT, Effect.CLOSE_TRANSPORT),
    Action.AE_5:  _outcome(State.STA2, Effect.START_ARTIM),
    Action.AE_6:  _outcome(State.STA3, Effect.STOP_ARTIM, Effect.INDICATE_ASSOCIATE),
    Action.AE_7:  _outcome(State.STA6, Effect.SEND_ASSOCIATE_AC),
    Action.AE_8:  _outcome(State.STA13, Effect.SEND_ASSOCIATE_RJ, Effect.START_ARTIM),
    Action.DT_1:  _outcome(State.STA6),
    Action.DT_2:  _outcome(State.STA6),
    Action.AR_1:  _outcome(State.STA7, Effect.SEND_RELEASE_RQ),
    Action.AR_2:  _outcome(State.STA8, Effect.INDICATE_RELEASE),
    Action.AR_3:  _outcome(State.STA1, Effect.CONFIRM_RELEASE, Effect.CLOSE_TRANSPORT),
    Action.AR_4:  _outcome(State.STA13, Effect.SEND_RELEASE_RP, Effect.START_ARTIM),
    Action.AR_5:  _outcome(State.STA1, Effect.STOP_ARTIM),
    Action.AR_6:  _outcome(State.STA7),
    Action.AR_7:  _outcome(State.STA8),
    Action.AR_8:  _outcome(State.STA9, Effect.INDICATE_RELEASE_COLLISION),
    Action.AR_9:  _outcome(State.STA11, Effect.SEND_RELEASE_RP),
    Action.AR_10: _outcome(State.STA12, Effect.CONFIRM_RELEASE),
    Action.AA_1:  _outcome(State.STA13, Effect.SEND_USER_ABORT, Effect.START_ARTIM),
    Action.AA_2:  _outcome(State.STA1, Effect.STOP_ARTIM, Effect.CLOSE_TRANSPORT),
    Action.AA_3:  _outcome(State.STA1, Effect.INDICATE_ABORT, Effect.CLOSE_TRANSPORT),
    Action.AA_4:  _outcome(State.STA1, Effect.INDICATE_PROVIDER_ABORT),
    Action.AA_5:  _outcome(State.STA1, Effect.STOP_ARTIM),
    Action.AA_6:  _outcome(State.STA13),
    Action.AA_7:  _outcome(State.STA13, Effect.SEND_PROVIDER_ABORT),
    Action.AA_8:  _outcome(State.STA13, Effect.SEND_PROVIDER_ABORT, Effect.INDICATE_PROVIDER_ABORT,
                           Effect.START_ARTIM),
}
# The other outcome of the two actions that have one: a request the provider cannot take (AE-6), and a
# release collision on the side that accepted the association (AR-8).
OTHERWISE = {
    Action.AE_6:  _outcome(State.STA13, Effect.STOP_ARTIM, Effect.SEND_ASSOCIATE_RJ, Effect.START_ARTIM),
    Action.AR_8:  _outcome(State.STA10, Effect.INDICATE_RELEASE_COLLISION),
}
# fmt: on


def transition(
    state: State, event: Event, *, requestor: bool, acceptable: bool = True
) -> tuple[Action, tuple[Effect, ...], State] | None:
    """What happens on an event: the action, its effects and the next state; None in a blank cell.

    `requestor` says which side of the association this is (AR-8), `acceptable` whether the provider can
    take the A-ASSOCIATE-RQ just received (AE-6).
    """
    action = TRANSITIONS.get((state, event))
    if action is None:
        return None
    otherwise = not acceptable if action is Action.AE_6 else not requestor
    outcome = OTHERWISE[action] if action in OTHERWISE and otherwise else ACTIONS[action]
    return action, outcome.effects, outcome.next_state
