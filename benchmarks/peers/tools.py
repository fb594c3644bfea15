"""The command-line tools of each family, as they are shipped: what is typed to store, get, move and find.

DCMTK's have TCP_NODELAY=1 in their environment, which is to their favour. dcm4che's getscu and findscu are
looked for in `build/peers` (or the folder that the environment's ASYNCDICOM_PEERS names), where `.ci/peers`
puts them; dcm4che has no archive here, so they ask dcmqrscp.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.peers import dcmtk
from benchmarks.processes import ROOT, Missing

ARCHIVE = "QRSCP"
LOOPBACK = "127.0.0.1"
Command = list[str]


class Tools:
    """A family's tools: each method gives a command. `prefix` comes before a tool's name."""

    name: str
    archive_of: str
    """Whose servers they call."""
    whole_to = 10
    """Up to this round trip, in ms, they do the whole job. Beyond, a part of it tells the rest: they need
    a round trip for each instance."""
    prefix: tuple[str, ...] = ()
    study_root: tuple[str, ...] = ("-S",)
    store_options: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise `Missing` if they are not installed."""

    def _call(self, tool: str, port: int, *options: object) -> Command:
        return [*self.prefix, tool, *map(str, options), "-aec", ARCHIVE, LOOPBACK, str(port)]

    def receiver(self, port: int, folder: Path) -> Command:
        """Receive into a folder."""
        return [*self.prefix, "storescp", "-od", str(folder), str(port)]

    def archive(self, port: int, folder: Path, destinations: Mapping[str, int]) -> Command:
        """Run an archive that knows destinations by AE title and port."""
        raise NotImplementedError

    def store(self, port: int, folder: Path) -> Command:
        """Send the files of a folder."""
        return [*self._call("storescu", port, *self.store_options), str(folder)]

    def get(self, port: int, study: str, folder: Path) -> Command:
        """Retrieve a study into a folder by C-GET."""
        return self._call("getscu", port, *self.study_root, "-od", folder, *_keys("STUDY", study))

    def move(self, port: int, study: str, folder: Path, destination: str, receiving: int) -> Command:
        """Have a study sent to a destination, which listens on port `receiving` here, by C-MOVE."""
        receiver = self._receiver_of_move(destination, receiving)
        keys = _keys("STUDY", study)
        return self._call("movescu", port, *self.study_root, *receiver, "-od", folder, *keys)

    def _receiver_of_move(self, destination: str, receiving: int) -> list[object]:
        return ["-aet", destination, "-aem", destination, "+P", receiving]

    def find(self, port: int, study: str, series: str) -> Command:
        """List the instances of a series."""
        keys = ["-k", f"SeriesInstanceUID={series}", "-k", "SOPInstanceUID"]
        return self._call("findscu", port, *self.study_root, *_keys("IMAGE", study), *keys)


def _keys(level: str, study: str) -> list[str]:
    return ["-k", f"QueryRetrieveLevel={level}", "-k", f"StudyInstanceUID={study}"]


class Ours(Tools):
    """asyncdicom."""

    name = archive_of = "asyncdicom"
    whole_to = 1000
    prefix = (sys.executable, "-m", "asyncdicom")

    def archive(self, port: int, folder: Path, destinations: Mapping[str, int]) -> Command:
        """See `Tools`."""
        known = [f"--peer={title}={LOOPBACK}:{where}" for title, where in destinations.items()]
        return [*self.prefix, "qrscp", "-aet", ARCHIVE, "--port", str(port), "--data", str(folder), *known]


class Dcmtk(Tools):
    """DCMTK."""

    name = archive_of = "DCMTK"
    whole_to = 50
    store_options = ("+sd",)

    def check(self) -> None:
        """See `Tools`."""
        dcmtk.version()

    def archive(self, port: int, folder: Path, destinations: Mapping[str, int]) -> Command:
        """See `Tools`."""
        (folder / "database").mkdir(parents=True)
        config = folder / "dcmqrscp.cfg"
        config.write_text(dcmtk.configuration(port, folder / "database", destinations))
        return ["dcmqrscp", "-ll", "fatal", "-c", str(config)]


class Pynetdicom(Tools):
    """pynetdicom's applications."""

    name = archive_of = "pynetdicom"
    whole_to = -1
    prefix = (sys.executable, "-W", "ignore", "-m", "pynetdicom")
    store_options = ("-cx", "-r")

    def check(self) -> None:
        """See `Tools`."""
        if importlib.util.find_spec("pynetdicom") is None:
            raise Missing("pynetdicom is not installed")

    def archive(self, port: int, folder: Path, destinations: Mapping[str, int]) -> Command:
        """See `Tools`."""
        folder.mkdir(parents=True)
        lines = [
            f"[DEFAULT]\nae_title: {ARCHIVE}\nport: {port}\nbind_address: {LOOPBACK}\nmax_pdu: 16382",
            "acse_timeout: 60\ndimse_timeout: 60\nnetwork_timeout: 60\nlog_identifier: False",
            f"instance_location: {folder / 'instances'}\ndatabase_location: {folder / 'index.sqlite'}",
            *(f"[{title}]\naddress: {LOOPBACK}\nport: {where}" for title, where in destinations.items()),
        ]
        (folder / "qrscp.ini").write_text("\n".join(lines) + "\n")
        return [*self.prefix, "qrscp", "-c", str(folder / "qrscp.ini")]

    def _receiver_of_move(self, destination: str, receiving: int) -> list[object]:
        return ["-aem", destination, "--store", "--store-port", receiving, "--store-aet", destination]


class Dcm4che(Dcmtk):
    """dcm4che's getscu and findscu, which ask DCMTK's archive."""

    name = "dcm4che"
    whole_to = 10

    def check(self) -> None:
        """See `Tools`."""
        super().check()
        if shutil.which("java") is None:
            raise Missing("java is not installed")
        if not self._jar("getscu").exists():
            raise Missing("dcm4che's getscu is not there: .ci/peers fetches it")

    @staticmethod
    def _jar(tool: str) -> Path:
        folder = os.environ.get("ASYNCDICOM_PEERS_FOLDER") or ROOT / "build" / "peers"
        return Path(folder, "dcmfetch", "ext", tool)

    def _run(self, tool: str, port: int, level: str, study: str, *options: str) -> Command:
        called = ["-c", f"{ARCHIVE}@{LOOPBACK}:{port}", "-L", level, "-m", f"StudyInstanceUID={study}"]
        return ["java", "-jar", str(self._jar(tool)), *called, *options]

    def get(self, port: int, study: str, folder: Path) -> Command:
        """See `Tools`."""
        return self._run("getscu", port, "STUDY", study, "--directory", str(folder))

    def find(self, port: int, study: str, series: str) -> Command:
        """See `Tools`."""
        keys = ["-m", f"SeriesInstanceUID={series}", "-r", "SOPInstanceUID"]
        return self._run("findscu", port, "IMAGE", study, *keys)


FAMILIES: Sequence[Tools] = (Ours(), Dcmtk(), Pynetdicom(), Dcm4che())


def environment() -> dict[str, str]:
    """Give the environment of all tools: as installed, with all modules compiled, whatever we were told."""
    return dcmtk.environment(nodelay=True) | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""}
