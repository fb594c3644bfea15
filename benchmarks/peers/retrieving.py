"""Who asks an archive for studies, one after another, and where C-MOVE sends them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from asyncdicom import STUDY_ROOT, Association, Request, Server, Status, associate, retrieval_contexts, serve
from benchmarks import instances
from benchmarks.measure import Measurement, Sample

DESTINATION = "SINK"

_servers: list[Server] = []  # they live as long as the worker
_Job = Callable[[Association, Mapping[str, str]], Awaitable[int]]


async def _drop(request: Request) -> Status:
    async for _ in request.data.batches():
        pass
    return Status.SUCCESS


async def receive() -> int:
    """Be the destination, which drops what it gets; gives the port."""
    server = await serve(f"{DESTINATION}@127.0.0.1:0", c_store=_drop, unknown_storage=True)
    _servers.append(server)
    return server.port


async def find(association: Association, study: Mapping[str, str]) -> int:
    """List the instances of a study; gives how many matched."""
    identifier = {**study, "QueryRetrieveLevel": "IMAGE", "SOPInstanceUID": "", "InstanceNumber": ""}
    async with association.c_find(identifier, raw=True) as found:
        return sum([1 async for _ in found])


async def get(association: Association, study: Mapping[str, str]) -> int:
    """Retrieve a study on the same association; gives how many instances came."""
    result = await association.c_get(_of_study(study), c_store=_drop)
    return result.completed or 0


async def move(association: Association, study: Mapping[str, str]) -> int:
    """Have a study sent to the destination; gives how many instances went there."""
    result = await association.c_move(_of_study(study), move_destination=DESTINATION)
    return result.completed or 0


def _of_study(study: Mapping[str, str]) -> dict[str, str]:
    return {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": study["StudyInstanceUID"]}


_JOBS: dict[str, _Job] = {"find": find, "get": get, "move": move}


async def ask(
    job: str, port: int, ae_title: str, studies: list[dict[str, str]], each: int, receiver_pid: int
) -> Sample:
    """Do a job for each study, on one association; each has so many instances."""
    contexts: list[Any] = [STUDY_ROOT]
    if job == "get":
        contexts += retrieval_contexts([(instances.CT, instances.EXPLICIT)])
    perform = _JOBS[job]
    async with associate(f"{ae_title}@127.0.0.1:{port}", contexts=contexts) as association:
        with Measurement(receiver_pid) as it:
            for study in studies:
                done = await perform(association, study)
                if done != each:
                    raise RuntimeError(f"{job}: there were {done} instances of a study, not {each}")
    return it.sample(each * len(studies), each * len(studies) * instances.SMALL.size if job != "find" else 0)
