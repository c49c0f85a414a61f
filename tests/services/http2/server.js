// HTTP/2 by the standard module, without TLS unless that is the directory of a certificate and its key.
// Knows nothing of tracing.
//
// Notes the trace headers that it receives in the file SEEN, for the tests. Answers with the
// headers that it received, as JSON; a gRPC call with `node PATH`. With NEXT it asks another
// gRPC server first, with NEXT_HTTP an HTTP/1.1 server. The path's first part tells what else it does.
'use strict';

const fs = require('node:fs');
const http = require('node:http');
const http2 = require('node:http2');

const seen = fs.openSync(process.env.SEEN, 'a');
const next = process.env.NEXT && http2.connect(`http://127.0.0.1:${process.env.NEXT}`);
const nextHttp = process.env.NEXT_HTTP;
const agent = new http.Agent({ keepAlive: true });
const tableSize = process.env.TABLE_SIZE;

// A message with its prefix: not compressed, and the length.
function message(text) {
  const content = Buffer.from(text);
  const prefix = Buffer.alloc(5);
  prefix.writeUInt32BE(content.length, 1);
  return Buffer.concat([prefix, content]);
}

function collect(stream, then) {
  const pieces = [];
  stream.on('data', (piece) => pieces.push(piece));
  stream.on('end', () => then(Buffer.concat(pieces)));
}

function ask(path, then) {
  if (nextHttp) {
    http.get({ port: nextHttp, host: '127.0.0.1', path, agent }, (answer) => collect(answer, then));
    return;
  }
  if (!next) {
    then('');
    return;
  }
  const call = next.request({
    ':method': 'POST', ':path': path, 'content-type': 'application/grpc', te: 'trailers',
  });
  collect(call, (content) => then(content.subarray(5)));
  call.end(message(''));
}

function answerCall(stream, path) {
  ask(path, (after) => {
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
    stream.end(message(`node ${path}\n${after}`));
  });
}

const tls = process.env.TLS;
const options = {
  // Past so many megabytes that wait to be sent, new streams would be refused.
  maxSessionMemory: 1000,
  settings: {
    maxHeaderListSize: 1 << 20,
    maxConcurrentStreams: 1000,
    ...(tableSize === undefined ? {} : { headerTableSize: Number(tableSize) }),
  },
};
const server = tls
  ? http2.createSecureServer({
    cert: fs.readFileSync(`${tls}/certificate.pem`),
    key: fs.readFileSync(`${tls}/key.pem`),
    ...options,
  })
  : http2.createServer(options);

server.on('stream', (stream, headers, flags, raw) => {
  const path = headers[':path'];
  const values = [];
  const pairs = [];
  for (let i = 0; i < raw.length; i += 2) {
    pairs.push([raw[i], raw[i + 1]]);
    if (raw[i] === 'traceparent') {
      values.push(raw[i + 1]);
    }
  }
  fs.writeSync(seen, `${path} ${values.join(',')}\n`);
  stream.on('error', () => {});
  const [, what, argument] = path.split('/');
  if (what === 'reset') {
    // In the middle of the answer.
    stream.respond({ ':status': 200 });
    stream.write('half');
    setImmediate(() => stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR));
    return;
  }
  let length = 0;
  stream.on('data', (piece) => { length += piece.length; });
  stream.on('end', () => {
    if (path.includes('goaway')) {
      stream.session.close();
    }
    if ((headers['content-type'] || '').startsWith('application/grpc')) {
      answerCall(stream, path);
      return;
    }
    stream.respond({ ':status': what === 'status' ? Number(argument) : 200 });
    stream.end(what === 'large' ? 'x'.repeat(Number(argument)) : JSON.stringify({ headers: pairs, length }));
  });
});

server.on('sessionError', (error) => console.error(`session: ${error}`));
server.listen(Number(process.env.PORT), '127.0.0.1');
