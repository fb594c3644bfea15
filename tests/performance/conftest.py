from wire import nothing_left  # noqa: F401
