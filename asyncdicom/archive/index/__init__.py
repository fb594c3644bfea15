"""The index: what is stored, and how it is found. Nothing outside speaks SQL."""

try:
    import sqlalchemy as _  # noqa: F401
except ModuleNotFoundError:
    told = "an archive needs SQLAlchemy: pip install 'asyncdicom[archive]'"
    raise ModuleNotFoundError(told, name="sqlalchemy") from None
