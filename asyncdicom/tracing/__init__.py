"""A conversation of two others, watched: decoded, timed, told, and written as a capture file.

`side`, `conversation`, `told` and `pcap` have no IO: bytes and times go in, lines and packets come out.
"""
