"""Incoming requests: which service performs them, and what an error is answered with."""

from __future__ import annotations

import asyncio
import errno

from asyncdicom.access import Grant, refused_operation
from asyncdicom.dimse.messages import MESSAGES, Command, CommandField, encode, response_to
from asyncdicom.exceptions import (
    AssociationError,
    DataSetError,
    LocalProtocolError,
    PresentationContextError,
    StatusError,
)
from asyncdicom.net.channel import IncomingRequest
from asyncdicom.net.operation import Interrupted, permanent_failure, transient_failure
from asyncdicom.services import account
from asyncdicom.services.classes import may_name
from asyncdicom.services.request import ReceivedRequest
from asyncdicom.services.responses import Response, response_of
from asyncdicom.services.service import Service, Services
from asyncdicom.status import Status
from asyncdicom.telemetry.log import Log
from asyncdicom.ul.negotiation import AcceptedContext

__all__ = ["Dispatcher"]

log = Log("asyncdicom.services")

_WITH_IDENTIFIER = (CommandField.C_FIND_RQ, CommandField.C_GET_RQ, CommandField.C_MOVE_RQ)
# Requests that name their SOP class as the Requested one (PS3.7 10.1).
_REQUESTED = frozenset(
    field for field, message in MESSAGES.items() if "requested_sop_class_uid" in message.required
)
_LATE = Status.OUT_OF_RESOURCES  # what a request is answered with whose handler did not end in time
_NOT_GRANTED = (Status.NOT_AUTHORIZED, Status.MOVE_DESTINATION_UNKNOWN)
# Errors of the operating system that mean: not now.
_SHORT_OF = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class Dispatcher:
    """Performs the requests of one association with its services, as far as it was granted.

    `association` is what handlers get, `grant` what the peer may do, `services` are those that were offered
    to it.
    """

    __slots__ = ("association", "grant", "services")

    def __init__(self, association: object, grant: Grant, services: Services) -> None:
        self.association = association
        self.grant = grant
        self.services = services

    async def __call__(self, incoming: IncomingRequest) -> None:
        """Perform one request and send its final response."""
        try:
            response = await self._perform(incoming)
        except BaseException:
            account.tell_lost(incoming)
            raise
        try:
            if response.command is not None:
                response = _passed_on(incoming, response)
            final = self._final(incoming, response)
        except (DataSetError, LocalProtocolError, TypeError, ValueError):
            response = self._failed(incoming)
            final = self._final(incoming, response)
        invoker = incoming.channel.invoker
        is_hopeless = bool(invoker.operations) and self._arrived(incoming, response)
        try:
            await incoming.channel.performer.respond(incoming, final, response.data)
        except BaseException:
            incoming.remark = "not told, the association is lost"
            raise
        finally:
            account.tell(incoming, response)
        if is_hopeless:
            await invoker.cancel_receiving()

    def _arrived(self, incoming: IncomingRequest, response: Response) -> bool:
        """Count what came for a C-GET of ours by what it is answered with (PS3.4 C.4.3).

        True if too much of it was refused.
        """
        arrivals = incoming.channel.invoker.receiver
        if arrivals is None or incoming.command.command_field is not CommandField.C_STORE_RQ:
            return False
        arrivals.answered(incoming.command, Response(_LATE) if incoming.answered else response)
        return bool(arrivals.is_hopeless)

    def _final(self, incoming: IncomingRequest, response: Response) -> Command:
        """Make the command set of a response. Raises if the request cannot be answered with it."""
        if response.content is not None:
            response.encode(incoming.context.transfer_syntax)
        fields = response.fields()
        final = response_to(incoming.command, response.status, **fields)
        if fields:
            encode(final)
        return final

    def at_once(self, context: AcceptedContext, command: Command) -> Command | None:
        """Give the response to a request that needs no work of a handler."""
        if command.command_field is not CommandField.C_ECHO_RQ:
            return None
        service = self.services.find(command.command_field, context.abstract_syntax)
        if service is None or service.at_once is None or self._refused(service, context, command) is not None:
            return None
        return response_to(command, service.at_once)

    def association_ended(self) -> None:
        """Tell the services that the association is over."""
        self.services.ended(self.association)

    def _refused(self, service: Service | None, context: AcceptedContext, command: Command) -> Status | None:
        """Why a request is not performed, as a status; None if it is."""
        grant = self.grant
        if grant.services is not None or grant.move_destinations is not None:
            permission = service.permission_for(context.abstract_syntax) if service is not None else None
            refused = refused_operation(grant, permission, command)
            if refused is not None:
                return refused
        field = command.command_field
        is_requested = field in _REQUESTED
        named = command.requested_sop_class_uid if is_requested else command.affected_sop_class_uid
        abstract_syntax = context.abstract_syntax
        if named is not None and named != abstract_syntax:
            belongs = may_name if service is None else service.may_name
            if not belongs(abstract_syntax, named):
                return Status.SOP_CLASS_NOT_SUPPORTED
        # Event reports go from the SCP to the SCU; many SCPs do not negotiate roles for it.
        if not context.as_scp and field is not CommandField.N_EVENT_REPORT_RQ:
            return Status.SOP_CLASS_NOT_SUPPORTED
        return Status.UNRECOGNIZED_OPERATION if service is None else None

    async def _perform(self, incoming: IncomingRequest) -> Response:
        context, command = incoming.context, incoming.command
        service = self.services.find(command.command_field, context.abstract_syntax)
        refused = self._refused(service, context, command)
        if service is None or refused is not None:
            if refused in _NOT_GRANTED:
                incoming.remark = "refused: no permission"
            return Response(Status.UNRECOGNIZED_OPERATION if refused is None else refused)
        try:
            return response_of(await service.perform(ReceivedRequest(incoming, self.association)))
        except Interrupted:
            return self._interrupted(incoming)
        except StatusError as error:
            return self._raised(incoming, error)
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise  # the association is lost
            return self._failed(incoming)
        except AssociationError as error:
            if incoming.channel.failure is not None:
                raise  # there is nobody to answer
            return self._known(
                incoming, error, "another system that is needed does not answer", transient=True
            )
        except PresentationContextError as error:
            return self._known(incoming, error, "another system that is needed does not take it")
        except DataSetError as error:
            if incoming.data is None or not _is_or_comes_from(error, incoming.data.unreadable):
                return self._failed(incoming)
            return self._known(incoming, error, f"your data set cannot be read: {error}", identifier=True)
        except OSError as error:
            if error.errno not in _SHORT_OF:
                return self._failed(incoming)
            return self._known(incoming, error, "out of resources", transient=True)
        except GeneratorExit:
            if not _is_running(incoming.task):
                raise  # the task itself is thrown away
            return self._failed(incoming)
        except BaseException:  # also SystemExit: one handler does not decide over all the others
            return self._failed(incoming)

    def _raised(self, incoming: IncomingRequest, error: StatusError) -> Response:
        """Answer with the response that a handler has raised."""
        try:
            return response_of(error.response if isinstance(error.response, Response) else error.status)
        except (TypeError, ValueError):
            return self._failed(incoming)

    def _interrupted(self, incoming: IncomingRequest) -> Response:
        comment = None
        if incoming.is_stalled:
            comment = "it took too long" if incoming.is_late else "the data set was not taken in time"
        return Response(incoming.given_up_status, error_comment=comment)

    def _failed(self, incoming: IncomingRequest) -> Response:
        """Answer for a bug in a handler: only the log tells what it was."""
        command = incoming.command
        log.exception("%s: the handler of %s %s failed", incoming.channel, command.name, command.message_id)
        incoming.is_told = True
        return Response(permanent_failure(command), error_comment="internal error")

    def _known(
        self,
        incoming: IncomingRequest,
        error: Exception,
        comment: str,
        *,
        transient: bool = False,
        identifier: bool = False,
    ) -> Response:
        """Answer for what is no bug: the one line in the log has the reason, and so has who asked."""
        command = incoming.command
        if str(error) not in comment:
            incoming.remark = str(error)
        status = transient_failure(command) if transient else permanent_failure(command)
        if identifier and command.command_field in _WITH_IDENTIFIER:
            status = Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS
        return Response(status, error_comment=comment)


def _passed_on(incoming: IncomingRequest, response: Response) -> Response:
    """Make an answer of a response that another system gave: of what it has, what this request can be told.

    Raises `DataSetError` for a data set that cannot be encoded for this context.
    """
    field = incoming.command.command_field
    message = MESSAGES[CommandField(field | 0x8000)]
    is_normalized = "attribute_identifier_list" in message.optional
    has_data = message.may_have_data and is_normalized and response.data is not None
    return Response(
        response.status,
        error_comment=response.error_comment,
        offending_elements=response.offending_elements,
        error_id=response.error_id,
        attribute_identifier_list=response.attribute_identifier_list if is_normalized else (),
        sop_instance_uid=response.sop_instance_uid if field is CommandField.N_CREATE_RQ else None,
        attributes=response.attributes if has_data else None,
    )


def _is_running(task: asyncio.Task[None] | None) -> bool:
    try:
        return asyncio.current_task() is task
    except RuntimeError:  # no event loop runs
        return False


def _is_or_comes_from(error: BaseException | None, cause: BaseException | None) -> bool:
    while error is not None and cause is not None:
        if error is cause:
            return True
        error = error.__cause__
    return False
