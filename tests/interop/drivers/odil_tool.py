"""odil as a tool: run by the Python that Debian's python3-odil is installed for.

odil_tool.py echo AET PORT
odil_tool.py store AET PORT FILE...
odil_tool.py find AET PORT                 prints the Study Instance UIDs
odil_tool.py get AET PORT STUDY FOLDER SOP-CLASS
odil_tool.py move AET PORT STUDY DESTINATION
odil_tool.py storescp AET PORT FOLDER
"""

import pathlib
import sys

import odil

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
VERIFICATION = "1.2.840.10008.1.1"
FIND, MOVE, GET = (f"1.2.840.10008.5.1.4.1.2.2.{number}" for number in (1, 2, 3))
Context = odil.AssociationParameters.PresentationContext


def text(data_set, keyword):
    value = data_set.as_string(getattr(odil.registry, keyword))[0]
    return value.decode() if isinstance(value, bytes) else value


def associate(title, port, *contexts):
    association = odil.Association()
    association.set_peer_host("127.0.0.1")
    association.set_peer_port(int(port))
    parameters = association.update_parameters()
    parameters.set_calling_ae_title(b"ODIL")
    parameters.set_called_ae_title(title.encode())
    numbered = [Context(2 * n + 1, uid, syntaxes, role) for n, (uid, syntaxes, role) in enumerate(contexts)]
    parameters.set_presentation_contexts(numbered)
    association.set_parameters(parameters)
    association.associate()
    return association


def study_query(**keys):
    query = odil.DataSet()
    for keyword, value in {"QueryRetrieveLevel": "STUDY", **keys}.items():
        query.add(getattr(odil.registry, keyword), [value] if value else [])
    return query


def write(data_set, folder):
    path = pathlib.Path(folder, text(data_set, "SOPInstanceUID") + ".dcm")
    with odil.open(str(path), "wb") as stream:
        odil.Writer.write_file(data_set, stream)


def echo(title, port):
    association = associate(title, port, (VERIFICATION, [IMPLICIT], Context.Role.SCU))
    odil.EchoSCU(association).echo()
    association.release()


def store(title, port, *paths):
    for path in paths:
        with odil.open(path) as stream:
            _, data_set = odil.Reader.read_file(stream)
        sop_class = text(data_set, "SOPClassUID")
        association = associate(title, port, (sop_class, [EXPLICIT, IMPLICIT], Context.Role.SCU))
        scu = odil.StoreSCU(association)
        scu.set_affected_sop_class(data_set)
        scu.store(data_set)
        association.release()


def find(title, port):
    association = associate(title, port, (FIND, [IMPLICIT], Context.Role.SCU))
    scu = odil.FindSCU(association)
    scu.set_affected_sop_class(FIND)
    for match in scu.find(study_query(StudyInstanceUID="", PatientName="")):
        print(text(match, "StudyInstanceUID"))
    association.release()


def get(title, port, study, folder, sop_class):
    association = associate(
        title,
        port,
        (GET, [IMPLICIT], Context.Role.SCU),
        (sop_class, [IMPLICIT, EXPLICIT], Context.Role.SCP),
    )
    scu = odil.GetSCU(association)
    scu.set_affected_sop_class(GET)
    for data_set in scu.get(study_query(StudyInstanceUID=study)):
        write(data_set, folder)
    association.release()


def move(title, port, study, destination):
    association = associate(title, port, (MOVE, [IMPLICIT], Context.Role.SCU))
    scu = odil.MoveSCU(association)
    scu.set_affected_sop_class(MOVE)
    scu.set_move_destination(destination)
    scu.move(study_query(StudyInstanceUID=study))
    association.release()


def storescp(title, port, folder):
    del title  # it takes any

    def on_store(request):
        write(request.get_data_set(), folder)
        return 0

    while True:
        association = odil.Association()
        association.receive_association("v4", int(port))
        dispatcher = odil.SCPDispatcher(association)
        echo_scp = odil.EchoSCP(association)
        echo_scp.set_callback(lambda request: 0)
        store_scp = odil.StoreSCP(association)
        store_scp.set_callback(on_store)
        dispatcher.set_echo_scp(echo_scp)
        dispatcher.set_store_scp(store_scp)
        try:
            while True:
                dispatcher.dispatch()
        except (odil.AssociationReleased, odil.AssociationAborted):
            pass


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
