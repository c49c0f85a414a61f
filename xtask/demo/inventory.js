// An inventory: counts for a moment, then answers. Plain standard library, no tracing.
'use strict';

const http = require('node:http');

http.createServer((request, response) => {
  setTimeout(() => {
    response.setHeader('Content-Type', 'application/json');
    response.end(JSON.stringify({ item: request.url, units: 42 }));
  }, 5);
}).listen(Number(process.argv[2]), '127.0.0.1');
