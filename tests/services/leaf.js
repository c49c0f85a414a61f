// A service that answers by itself. Knows nothing of tracing.
//
// Notes the trace headers that it receives in the file SEEN, for the tests. With TLS, the directory of
// a certificate and its key, its clients are to be encrypted.
'use strict';

const fs = require('node:fs');
const http = require('node:http');
const https = require('node:https');

const seen = fs.openSync(process.env.SEEN, 'a');

function answer(request, response) {
  const values = [];
  for (let i = 0; i < request.rawHeaders.length; i += 2) {
    if (request.rawHeaders[i].toLowerCase() === 'traceparent') {
      values.push(request.rawHeaders[i + 1]);
    }
  }
  fs.writeSync(seen, `${request.url} ${values.join(',')}\n`);
  let length = 0;
  request.on('data', (piece) => { length += piece.length; });
  request.on('end', () => {
    response.setHeader('Content-Type', 'text/plain');
    response.end(`leaf ${request.url}\n${length} bytes\n`);
  });
}

const tls = process.env.TLS;
const server = tls
  ? https.createServer({
    cert: fs.readFileSync(`${tls}/certificate.pem`),
    key: fs.readFileSync(`${tls}/key.pem`),
  }, answer)
  : http.createServer(answer);

server.keepAliveTimeout = 60000;
server.listen(Number(process.env.PORT), process.env.HOST);
