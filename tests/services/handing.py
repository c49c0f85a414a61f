"""A service of Python that hands things on: between threads, or with LOOP=1 between tasks of asyncio.

Threads:
/resource/N: one call on one of four connections, which are kept in a SimpleQueue and go back
             into it while the request goes on.
/poll/N:     one call, by a thread that gets N through a SimpleQueue; whenever it waited for
             2 ms in vain, it calls /poll/beat/0, for which no request asks.

Tasks:
/task/N:     a call, 5 ms later another, by the task that serves the connection. Every 3 ms a task
             that is as old as the server calls /task/job/0, for which no request asks.
/held/N:     a call, when /held/N+1 was asked for; /held/3 makes it at once.

What it calls is a process of its own.
"""

import asyncio
import http.client
import os
import queue
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = int(os.environ["PORT"])


def answer(text):
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()


class Backend(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        time.sleep(0.003)
        self.wfile.write(answer("ok"))

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 512


def backend():
    """Starts it in a process of its own, and tells where it is."""
    server = Server(("127.0.0.1", 0), Backend)
    port = server.server_address[1]
    parent = os.getpid()
    if os.fork() == 0:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(0)
    server.socket.close()
    return port


def threads(next_port):
    def connection():
        made = http.client.HTTPConnection("127.0.0.1", next_port)
        made.connect()
        made.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def call(on, path):
        on.request("GET", path)
        assert on.getresponse().read() == b"ok"

    idle, jobs = queue.SimpleQueue(), queue.SimpleQueue()
    for _ in range(4):
        idle.put(connection())

    def poller():
        own = connection()
        while True:
            try:
                number, done = jobs.get(timeout=0.002)
            except queue.Empty:
                call(own, "/poll/beat/0")
                continue
            call(own, f"/poll/{number}/0")
            done.set()

    threading.Thread(target=poller, daemon=True).start()

    class Handler(Backend):
        def do_GET(self):
            kind, number = self.path.split("/")[1:3]
            if kind == "resource":
                taken = idle.get()
                call(taken, f"/resource/{number}/0")
                idle.put(taken)
                time.sleep(0.005)
            elif kind == "poll":
                done = threading.Event()
                jobs.put((number, done))
                done.wait()
                time.sleep(0.005)
            self.wfile.write(answer(self.path))

    Server(("127.0.0.1", PORT), Handler).serve_forever()


async def tasks(next_port):
    idle = []

    async def call(path):
        streams = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", next_port)
        streams[1].write(f"GET {path} HTTP/1.1\r\nHost: backend\r\n\r\n".encode())
        await streams[0].readuntil(b"ok")
        idle.append(streams)

    async def job():
        while True:
            await call("/task/job/0")
            await asyncio.sleep(0.003)

    released = {number: asyncio.Event() for number in range(4)}

    async def serve(reader, writer):
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                return writer.close()
            path = head.split()[1].decode()
            parts = path.split("/")
            if parts[1] == "task":
                await call(f"/task/{parts[2]}/0")
                await asyncio.sleep(0.005)
                await call(f"/task/{parts[2]}/1")
            elif parts[1] == "held":
                number = int(parts[2])
                print(f"held {number}", flush=True)
                released[number - 1].set()
                if number < 3:
                    await released[number].wait()
                await call(f"/held/{number}/0")
            writer.write(answer(path))
            await writer.drain()

    await asyncio.gather(*(call("/task/job/0") for _ in range(4)))
    running = asyncio.ensure_future(job())
    server = await asyncio.start_server(serve, "127.0.0.1", PORT, backlog=512)
    async with server:
        await asyncio.gather(running, server.serve_forever())


if os.environ.get("LOOP"):
    asyncio.run(tasks(backend()))
else:
    threads(backend())
