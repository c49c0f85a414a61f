// A service that has timers: it asks NEXT by itself every few milliseconds, and three times at once for
// each request.
//
// /KIND/N: three calls at once (/KIND/N/0 ...), and the answer after the last reply.
'use strict';

const http = require('node:http');

const agent = new http.Agent({ keepAlive: true });

function call(path) {
  return new Promise((resolve, reject) => {
    const options = { host: '127.0.0.1', port: Number(process.env.NEXT), path, agent };
    const request = http.get(options, (answer) => {
      answer.on('end', resolve);
      answer.on('error', reject);
      answer.resume();
    });
    request.on('error', reject);
  });
}

let jobs = 0;
setInterval(() => {
  jobs += 1;
  call(`/job/${jobs}/0`).catch(() => {});
}, 5);

const server = http.createServer((request, response) => {
  Promise.all([0, 1, 2].map((number) => call(`${request.url}/${number}`))).then(
    () => response.end(request.url),
    (error) => response.writeHead(502).end(String(error)),
  );
});
server.keepAliveTimeout = 60000;
server.listen(Number(process.env.PORT), process.env.HOST);
