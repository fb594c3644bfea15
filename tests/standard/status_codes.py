"""PS3.7 Annex C: the Status of DIMSE-C and DIMSE-N services, transcribed; (class, section, meaning)."""

GENERAL = """
0000 Success C.1.1  Success
FF00 Pending C.1.2  Pending
FE00 Cancel  C.1.3  Cancel
0107 Warning C.4.2  Attribute List Error
0116 Warning C.4.3  Attribute Value Out of Range
0122 Failure C.5.6  SOP Class Not Supported
0119 Failure C.5.7  Class-Instance Conflict
0111 Failure C.5.8  Duplicate SOP Instance
0210 Failure C.5.9  Duplicate Invocation
0115 Failure C.5.10 Invalid Argument Value
0106 Failure C.5.11 Invalid Attribute Value
0117 Failure C.5.12 Invalid SOP Instance
0120 Failure C.5.13 Missing Attribute
0121 Failure C.5.14 Missing Attribute Value
0212 Failure C.5.15 Mistyped Argument
0114 Failure C.5.16 No Such Argument
0105 Failure C.5.17 No Such Attribute
0113 Failure C.5.18 No Such Event Type
0112 Failure C.5.19 No Such Object Instance
0118 Failure C.5.20 No Such SOP Class
0110 Failure C.5.21 Processing Failure
0213 Failure C.5.22 Resource Limitation
0211 Failure C.5.23 Unrecognized Operation
0123 Failure C.5.24 No Such Action
0124 Failure C.5.25 Not Authorized
"""

# Status classes by code, C.1 to C.5: codes in these ranges that no table names.
RANGES = """
0001 Warning
B000 Warning
B123 Warning
BFFF Warning
A000 Failure
AFFF Failure
C000 Failure
CFFF Failure
0101 Failure
01FF Failure
0201 Failure
02FF Failure
"""
