// Makes requests on one connection of HTTP/2, and says what came of each, as a JSON line. Without TLS, unless
// that is the directory of the server's certificate: then it begins when it is told a line.
//
// Arguments: the server's port, and a file of JSON: `requests`, a list of `path` and maybe `headers`, `bytes`
// to send, `cancel`, after the first piece of the answer; `parallel`, to make them all at once;
// `settings` of the connection.
'use strict';

const fs = require('node:fs');
const http2 = require('node:http2');

const [, , port, file] = process.argv;
const work = JSON.parse(fs.readFileSync(file));
const tls = process.env.TLS;
let session;
const options = {
  settings: work.settings || {},
  maxSendHeaderBlockLength: 1 << 20,
  peerMaxConcurrentStreams: 1000,
};

function make(request) {
  return new Promise((done) => {
    const bytes = request.bytes || 0;
    const stream = session.request({
      ':path': request.path, ':method': bytes ? 'POST' : 'GET', ...(request.headers || {}),
    });
    const pieces = [];
    let status = 0;
    let error = '';
    stream.on('response', (headers) => { status = headers[':status']; });
    stream.on('data', (piece) => {
      pieces.push(piece);
      if (request.cancel) {
        stream.close(http2.constants.NGHTTP2_CANCEL);
      }
    });
    stream.on('error', (what) => { error = what.message; });
    stream.on('close', () => {
      const body = Buffer.concat(pieces);
      done({ path: request.path, status, error, length: body.length, body: body.length < 300000 ? body.toString() : '' });
    });
    stream.end(bytes ? Buffer.alloc(bytes, 'x') : undefined);
  });
}

async function main() {
  if (tls) {
    options.ca = fs.readFileSync(`${tls}/certificate.pem`);
  }
  session = http2.connect(`${tls ? 'https' : 'http'}://127.0.0.1:${port}`, options);
  session.on('error', (error) => console.log(JSON.stringify({ session: String(error) })));
  if (work.parallel) {
    for (const result of await Promise.all(work.requests.map(make))) {
      console.log(JSON.stringify(result));
    }
  } else {
    for (const request of work.requests) {
      console.log(JSON.stringify(await make(request)));
    }
  }
  session.close();
}

if (tls) {
  console.error('gate');
  process.stdin.once('data', () => { process.stdin.unref(); main(); });
} else {
  main();
}
