// dcmjs-dimse as a tool: run by node, with NODE_PATH where it is installed.
//
//     dcmjs_tool.cjs echo AET PORT
//     dcmjs_tool.cjs store AET PORT FILE...
//     dcmjs_tool.cjs find AET PORT                 prints the Study Instance UIDs
//     dcmjs_tool.cjs get AET PORT STUDY FOLDER
//     dcmjs_tool.cjs move AET PORT STUDY DESTINATION
//     dcmjs_tool.cjs storescp AET PORT FOLDER
'use strict';

const path = require('path');
const { Client, Scp, Server, requests, responses, constants } = require('dcmjs-dimse');

const { Status, PresentationContextResult, TransferSyntax } = constants;
const [command, title, port, ...rest] = process.argv.slice(2);

function fail(reason) {
  console.error(String(reason));
  process.exitCode = 1;
}

function keep(dataset, folder) {
  return new Promise((resolve, reject) => {
    const file = path.join(folder, `${dataset.getElements().SOPInstanceUID}.dcm`);
    dataset.toFile(file, (error) => (error ? reject(error) : resolve()));
  });
}

function answer(request, callback, folder) {
  const response = responses.CStoreResponse.fromRequest(request);
  keep(request.getDataset(), folder).then(
    () => response.setStatus(Status.Success),
    (error) => {
      fail(error);
      response.setStatus(Status.ProcessingFailure);
    },
  ).then(() => callback(response));
}

function send(all, onResponse = () => {}, onStore = null) {
  const client = new Client();
  for (const request of all) {
    request.on('response', (response) => {
      const status = response.getStatus();
      if (status !== Status.Pending && status !== Status.Success) {
        fail(`status ${status.toString(16)}`);
      }
      onResponse(response);
    });
    client.addRequest(request);
  }
  if (onStore !== null) {
    client.on('cStoreRequest', onStore);
  }
  client.on('networkError', fail);
  client.on('associationRejected', () => fail('rejected'));
  client.send('127.0.0.1', Number(port), 'DCMJS', title, { connectTimeout: 20000, associationTimeout: 20000 });
}

class StoreScp extends Scp {
  associationRequested(association) {
    for (const { id } of association.getPresentationContexts()) {
      const context = association.getPresentationContext(id);
      const known = [TransferSyntax.ExplicitVRLittleEndian, TransferSyntax.ImplicitVRLittleEndian];
      const syntax = known.find((one) => context.getTransferSyntaxUids().includes(one));
      if (syntax === undefined) {
        context.setResult(PresentationContextResult.RejectTransferSyntaxesNotSupported);
      } else {
        context.setResult(PresentationContextResult.Accept, syntax);
      }
    }
    this.sendAssociationAccept();
  }

  cEchoRequest(request, callback) {
    const response = responses.CEchoResponse.fromRequest(request);
    response.setStatus(Status.Success);
    callback(response);
  }

  cStoreRequest(request, callback) {
    answer(request, callback, rest[0]);
  }

  associationReleaseRequested() {
    this.sendAssociationReleaseResponse();
  }
}

const commands = {
  echo: () => send([new requests.CEchoRequest()]),
  store: () => send(rest.map((file) => new requests.CStoreRequest(file))),
  find: () =>
    send([requests.CFindRequest.createStudyFindRequest({ StudyInstanceUID: '', PatientName: '' })], (response) => {
      if (response.hasDataset()) {
        console.log(response.getDataset().getElements().StudyInstanceUID);
      }
    }),
  get: () =>
    send([requests.CGetRequest.createStudyGetRequest(rest[0])], undefined, (request, callback) =>
      answer(request, callback, rest[1]),
    ),
  move: () => send([requests.CMoveRequest.createStudyMoveRequest(rest[1], rest[0])]),
  storescp: () => new Server(StoreScp).listen(Number(port)),
};

commands[command]();
