// Node.js: http server, or with FRAMEWORK=express Express; client http.get with a
// keep-alive Agent, or with CLIENT=fetch the built-in fetch (undici), or with
// CLIENT=pool a Pool of the package undici.
// Typical: one event loop thread for all requests; a call's answer comes in a
// later turn of the loop, parallel calls are Promise.all, background is setTimeout.
'use strict';

const http = require('http');
const net = require('net');
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

function poolClient() {
  const { Pool } = require('undici');
  const pool = new Pool(next, { connections: 512, keepAliveTimeout: 60000 });
  return async (path) => {
    const answer = await pool.request({ path, method: 'GET' });
    await answer.body.text();
    return answer.statusCode;
  };
}

const client = process.env.CLIENT;
if (client === 'fetch' && typeof fetch !== 'function') process.exit(3);
const get = client === 'fetch' ? getByFetch : client === 'pool' ? poolClient() : getByAgent;

// The datastore does not speak HTTP: a line is a query, a line its row. Ten connections;
// who finds none idle waits until one is given back.
const idle = Array.from({ length: 10 }, () => ({ stream: null, text: '', resolve: null }));
const waiting = [];

function ask(connection, key) {
  return new Promise((resolve, reject) => {
    if (!connection.stream) {
      const [host, port] = process.env.STORE.split(':');
      connection.stream = net.connect(Number(port), host);
      connection.stream.setEncoding('utf8');
      connection.stream.on('data', (text) => {
        connection.text += text;
        if (!connection.text.endsWith('\n')) return;
        const row = connection.text;
        connection.text = '';
        connection.resolve(row);
      });
      connection.stream.on('error', reject);
    }
    connection.resolve = resolve;
    connection.stream.write(`query ${key}\n`);
  });
}

async function query(key) {
  const connection = idle.pop() || (await new Promise((resolve) => waiting.push(resolve)));
  const row = await ask(connection, key);
  if (waiting.length > 0) waiting.shift()(connection);
  else idle.push(connection);
  if (row !== `row ${key}\n`) throw new Error(`the row of ${key} is ${row}`);
}

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
  async datastore(id) {
    await query(id);
    await get(`/datastore/${id}/0`);
  },
};

function answer(response, status, text) {
  response.writeHead(status, { 'Content-Type': 'text/plain', 'Content-Length': text.length });
  response.end(text);
}

async function byHttp(request, response) {
  const found = /^\/([a-z]+)\/(\d+)$/.exec(request.url);
  if (!found || !Object.hasOwn(patterns, found[1])) return answer(response, 404, 'not found');
  try {
    await patterns[found[1]](found[2]);
    answer(response, 200, 'ok');
  } catch (error) {
    answer(response, 502, 'bad gateway');
  }
}

function byExpress() {
  const app = require('express')();
  for (const [name, pattern] of Object.entries(patterns)) {
    app.get(`/${name}/:id(\\d+)`, (request, response, next) => {
      pattern(request.params.id).then(() => response.type('text').send('ok'), next);
    });
  }
  return app;
}

const handler = process.env.FRAMEWORK === 'express' ? byExpress() : byHttp;
const server = http.createServer(handler);
server.keepAliveTimeout = 60000;
server.listen(Number(process.env.PORT), '127.0.0.1');
