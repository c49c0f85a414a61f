// Node.js: http server; client http.get with a keep-alive Agent, or with
// CLIENT=fetch the built-in fetch (undici).
// Typical: one event loop thread for all requests; a call's answer comes in a
// later turn of the loop, parallel calls are Promise.all, background is setTimeout.
'use strict';

const http = require('http');
const { setTimeout: sleep } = require('timers/promises');

const next = `http://${process.env.NEXT}`;
const agent = new http.Agent({ keepAlive: true, maxSockets: 512, maxFreeSockets: 512 });

function getByAgent(path) {
  return new Promise((resolve, reject) => {
    http
      .get(next + path, { agent }, (answer) => {
        answer.on('end', () => resolve(answer.statusCode));
        answer.on('error', reject);
        answer.resume();
      })
      .on('error', reject);
  });
}

async function getByFetch(path) {
  const answer = await fetch(next + path);
  await answer.text();
  return answer.status;
}

if (process.env.CLIENT === 'fetch' && typeof fetch !== 'function') process.exit(3);
const get = process.env.CLIENT === 'fetch' ? getByFetch : getByAgent;

const patterns = {
  async one(id) {
    await get(`/one/${id}/0`);
  },
  async sequence(id) {
    for (let i = 0; i < 3; i++) await get(`/sequence/${id}/${i}`);
  },
  async parallel(id) {
    await Promise.all([0, 1, 2].map((i) => get(`/parallel/${id}/${i}`)));
  },
  async timer(id) {
    await sleep(20);
    await get(`/timer/${id}/0`);
  },
  async background(id) {
    setTimeout(() => get(`/background/${id}/0`).catch(() => {}), 30);
  },
  async retry(id) {
    if ((await get(`/retry/${id}/0`)) === 503) await get(`/retry/${id}/1`);
  },
};

function answer(response, status, text) {
  response.writeHead(status, { 'Content-Type': 'text/plain', 'Content-Length': text.length });
  response.end(text);
}

const server = http.createServer(async (request, response) => {
  const found = /^\/(one|sequence|parallel|timer|background|retry)\/(\d+)$/.exec(request.url);
  if (!found) return answer(response, 404, 'not found');
  try {
    await patterns[found[1]](found[2]);
    answer(response, 200, 'ok');
  } catch (error) {
    answer(response, 502, 'bad gateway');
  }
});
server.keepAliveTimeout = 60000;
server.listen(Number(process.env.PORT), '127.0.0.1');
