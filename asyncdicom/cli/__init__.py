"""The command-line tools, one file each; `asyncdicom.__main__` finds them by name.

A tool's module has a click command called `command`. At its top it imports click and the option
modules only: the network stack and pydicom are imported by the functions that need them, so that
``--help`` answers at once.
"""
