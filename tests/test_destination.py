"""What a C-MOVE destination says about itself."""

from __future__ import annotations

import ssl

import pytest

from asyncdicom import Address, Destination
from asyncdicom.destination import as_destination


def test_it_is_called_as_requests_name_it_or_by_a_title_of_its_own() -> None:
    assert Destination("10.0.0.7:104").named("WS1").where == Address("WS1", "10.0.0.7", 104)
    own = Destination("10.0.0.7:104", called_ae_title="OTHER").named("WS1")
    assert own.where == Address("OTHER", "10.0.0.7", 104)
    assert as_destination("X@10.0.0.7:104").where.ae_title == "X"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"address": "nothing:port"}, "port"),
        ({"calling_ae_title": "A" * 17}, "16 are allowed"),
        ({"called_ae_title": ""}, "empty"),
        ({"maximum_associations": 0}, "at least one"),
        ({"operations_invoked": -1}, "window"),
        ({"ssl": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)}, "one for clients"),
        ({"ssl": ssl.create_default_context(), "plain": True}, "or without"),
    ],
)
def test_what_cannot_be_is_a_value_error(options: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Destination(**{"address": "10.0.0.7:104"} | options)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"ssl": True}, {"address": 104}])
def test_what_is_of_another_type_is_a_type_error(options: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        Destination(**{"address": "10.0.0.7:104"} | options)  # type: ignore[arg-type]
