"""A PostgreSQL server of our own: where its programs are, as whom it runs, and its command lines.

It listens on a Unix socket in a folder that only we can enter, and on no port: whoever could reach it would
be its superuser.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

__all__ = ["OwnPostgres", "find_programs", "user_of_server"]

_DEBIANS = "/usr/lib/postgresql"
_USERS = ("postgres", "nobody")  # of these the first that is there runs the server, where we are root
_SUPERUSER = "asyncdicom"
_VERSION = "PG_VERSION"  # the file of a database's folder that says which server has made it


def find_programs(version: str | None = None, *, debians: str = _DEBIANS) -> Path | None:
    """Give the folder of the server's programs: Debian's newest, or where ``initdb`` is in PATH.

    `version`: of the server that has made the database's folder, if there is one; it is preferred.
    """
    places = [each.parent for each in Path(debians).glob("*/bin/initdb")]
    for place in sorted(places, key=lambda each: _as_wanted(each.parent.name, version), reverse=True):
        return place
    found = shutil.which("initdb")
    return None if found is None else Path(os.path.realpath(found)).parent


def _as_wanted(version: str, wanted: str | None) -> tuple[bool, tuple[int, ...]]:
    numbers = tuple(int(each) if each.isdigit() else 0 for each in version.split("."))
    return version == wanted, numbers


def user_of_server() -> Any:
    """Give the entry of the user that the server runs as, for it does not run as root; None: as ourselves.

    Raises LookupError if we are root and there is no such user.
    """
    if os.getuid():
        return None
    import pwd

    for name in _USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise LookupError(f"PostgreSQL does not run as root, and there is no user {' or '.join(_USERS)} for it")


class OwnPostgres(NamedTuple):
    """A server: its programs, the folder of its database, that of its socket, and its user (None: we)."""

    programs: Path
    data: Path
    socket: Path
    user: Any = None

    @classmethod
    def in_folder(cls, data: Path, socket: Path, *, debians: str = _DEBIANS) -> OwnPostgres:
        """Find what it takes, and make its folders. Raises LookupError where PostgreSQL is missing."""
        made_by = data / _VERSION
        version = made_by.read_text().strip() if made_by.is_file() else None
        programs = find_programs(version, debians=debians)
        if programs is None:
            raise LookupError(
                "PostgreSQL's server is not here: apt-get install postgresql haproxy, or have initdb in PATH"
            )
        user = user_of_server()
        for folder in (data, socket):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if user is not None:
                os.chown(folder, user.pw_uid, user.pw_gid)
        return cls(programs, data, socket, user)

    @property
    def is_new(self) -> bool:
        """Whether there is no database in its folder yet."""
        return not (self.data / _VERSION).is_file()

    @property
    def as_user(self) -> Mapping[str, Any]:
        """What `subprocess` has to be told so that a program of it runs as its user."""
        if self.user is None:
            return {"cwd": self.socket}
        ids = {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": ()}
        return {"cwd": self.socket, **ids}

    def initdb(self) -> list[str]:
        """Give the command line that makes the database."""
        options = ("--encoding=UTF8", "--locale=C", "--auth=trust", f"--username={_SUPERUSER}")
        return [str(self.programs / "initdb"), "-D", str(self.data), *options]

    def postgres(self) -> list[str]:
        """Give the command line of the server."""
        settings = ("-c", "listen_addresses=", "-c", "logging_collector=off")
        return [str(self.programs / "postgres"), "-D", str(self.data), "-k", str(self.socket), *settings]

    def is_ready(self) -> list[str]:
        """Give the command line that says whether the server takes connections."""
        return [str(self.programs / "pg_isready"), "-q", "-h", str(self.socket)]

    @property
    def url(self) -> str:
        """The URL of an index in it."""
        return f"postgresql://{_SUPERUSER}@/postgres?host={quote(str(self.socket), safe='')}"
