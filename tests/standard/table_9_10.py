"""PS3.8 Table 9-10 written down a second time, by its columns, for the tests of ``ul.statetable``.

Each row is a state, then ``event:action``; an event that is not named has a blank cell there.
"""

BY_STATE = """
Sta1   1:AE-1 5:AE-5
Sta2   3:AA-1 4:AA-1 6:AE-6 10:AA-1 12:AA-1 13:AA-1 16:AA-2 17:AA-5 18:AA-2 19:AA-1
Sta3   3:AA-8 4:AA-8 6:AA-8 7:AE-7 8:AE-8 10:AA-8 12:AA-8 13:AA-8 15:AA-1 16:AA-3 17:AA-4 19:AA-8
Sta4   2:AE-2 15:AA-2 17:AA-4
Sta5   3:AE-3 4:AE-4 6:AA-8 10:AA-8 12:AA-8 13:AA-8 15:AA-1 16:AA-3 17:AA-4 19:AA-8
Sta6   3:AA-8 4:AA-8 6:AA-8 9:DT-1 10:DT-2 11:AR-1 12:AR-2 13:AA-8 15:AA-1 16:AA-3 17:AA-4 19:AA-8
Sta7   3:AA-8 4:AA-8 6:AA-8 10:AR-6 12:AR-8 13:AR-3 15:AA-1 16:AA-3 17:AA-4 19:AA-8
Sta8   3:AA-8 4:AA-8 6:AA-8 9:AR-7 10:AA-8 12:AA-8 13:AA-8 14:AR-4 15:AA-1 16:AA-3 17:AA-4 19:AA-8
Sta9   3:AA-8 4:AA-8 6:AA-8 10:AA-8 12:AA-8 13:AA-8 14:AR-9 15:AA-1 16:AA-3 17:AA-4 19:AA-8
Sta10  3:AA-8 4:AA-8 6:AA-8 10:AA-8 12:AA-8 13:AR-10 15:AA-1 16:AA-3 17:AA-4 19:AA-8
Sta11  3:AA-8 4:AA-8 6:AA-8 10:AA-8 12:AA-8 13:AR-3 15:AA-1 16:AA-3 17:AA-4 19:AA-8
Sta12  3:AA-8 4:AA-8 6:AA-8 10:AA-8 12:AA-8 13:AA-8 14:AR-4 15:AA-1 16:AA-3 17:AA-4 19:AA-8
Sta13  3:AA-6 4:AA-6 6:AA-7 10:AA-6 12:AA-6 13:AA-6 16:AA-2 17:AR-5 18:AA-2 19:AA-7
"""

# Tables 9-6 to 9-9: the state each action leads to (two for AE-6 and AR-8, the condition's first), and which
# PDU it sends, what it does to ARTIM, whether it closes the connection.
NEXT_STATES = """
AE-1 4     AE-2 5     AE-3 6     AE-4 1     AE-5 2     AE-6 3/13  AE-7 6     AE-8 13
DT-1 6     DT-2 6
AR-1 7     AR-2 8     AR-3 1     AR-4 13    AR-5 1     AR-6 7     AR-7 8     AR-8 9/10  AR-9 11    AR-10 12
AA-1 13    AA-2 1     AA-3 1     AA-4 1     AA-5 1     AA-6 13    AA-7 13    AA-8 13
"""
SENDS = {
    "AE-2": "ASSOCIATE_RQ",
    "AE-7": "ASSOCIATE_AC",
    "AE-8": "ASSOCIATE_RJ",
    "DT-1": "P_DATA",
    "AR-1": "RELEASE_RQ",
    "AR-4": "RELEASE_RP",
    "AR-7": "P_DATA",
    "AR-9": "RELEASE_RP",
    "AA-1": "USER_ABORT",
    "AA-7": "PROVIDER_ABORT",
    "AA-8": "PROVIDER_ABORT",
}
STARTS_ARTIM = {"AE-5", "AE-8", "AR-4", "AA-1", "AA-8"}
STOPS_ARTIM = {"AE-6", "AR-5", "AA-2", "AA-5"}
CLOSES = {"AE-4", "AR-3", "AA-2", "AA-3"}
