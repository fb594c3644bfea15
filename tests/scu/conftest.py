from helpers.peer import nothing_left  # noqa: F401
