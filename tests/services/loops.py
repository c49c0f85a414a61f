"""A service of event loops: THREADS of them, which take what comes from one queue.

One alone never sleeps, as a busy one does not: what it received last is then always fresh.

/callsX/N: three calls at once (/callsX/N/0 ...), and the answer after the last reply.
/timer/N: one call, 20 ms later.
/jobs/N:  the answer at once; 30 ms later JOBS calls that no request asks for.
/spawn/N: one call, by a thread that is made for it and ends before the answer.
/burst/N: one call; with its reply come JOBS calls that no request asks for, and the answer.

What it calls is a process of its own at NEXT, which answers as it comes.
"""

import heapq
import os
import queue
import selectors
import socket
import threading
import time

PORT = int(os.environ["PORT"])
THREADS = int(os.environ.get("THREADS", "1"))
JOBS = int(os.environ.get("JOBS", "1"))
IDLE_CONNECTIONS = 200


def answer(text):
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()


def backend(listener):
    poll = selectors.DefaultSelector()
    poll.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in poll.select():
            if key.fileobj is listener:
                poll.register(listener.accept()[0], selectors.EVENT_READ)
            elif key.fileobj.recv(4096):
                key.fileobj.sendall(answer("ok"))
            else:
                poll.unregister(key.fileobj)


class Request:
    def __init__(self, connection, path):
        self.connection, self.path = connection, path
        self.kind = path.split("/")[1]
        self.awaited = 3 if self.kind.startswith("calls") else 1


class Service:
    def __init__(self, next_port):
        self.lock = threading.RLock()
        self.poll = selectors.DefaultSelector()
        self.timers, self.ready, self.turn = [], queue.SimpleQueue(), 0
        self.idle = []
        for _ in range(IDLE_CONNECTIONS):
            connection = socket.create_connection(("127.0.0.1", next_port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.idle.append(connection)
        self.listener = socket.create_server(("127.0.0.1", PORT), backlog=256)
        self.waiting = {}
        self.watch(self.listener)

    def watch(self, connection):
        with self.lock:
            self.poll.register(connection, selectors.EVENT_READ)

    def call(self, path, request):
        with self.lock:
            connection = self.idle.pop()
            self.waiting[connection] = request
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: next\r\n\r\n".encode())
        self.watch(connection)

    def call_and_wait(self, path):
        connection = self.idle.pop()
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: next\r\n\r\n".encode())
        connection.recv(4096)
        self.idle.append(connection)

    def jobs(self, path):
        for number in range(JOBS):
            self.call(f"/job{path}/{number}", None)

    def later(self, delay, what):
        with self.lock:
            self.turn += 1
            heapq.heappush(self.timers, (time.monotonic() + delay, self.turn, what))

    def received(self, connection):
        if connection is self.listener:
            client = connection.accept()[0]
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.watch(connection)
            return self.watch(client)
        data = connection.recv(4096)
        with self.lock:
            is_reply = connection in self.waiting
            request = self.waiting.pop(connection, None)
        if is_reply:
            self.idle.append(connection)
            return self.go_on(self.replied, request)
        if not data:
            return connection.close()
        self.go_on(self.requested, Request(connection, data.split(b" ", 2)[1].decode()))

    def go_on(self, step, request):
        """A loop goes on at once; several put it where any of them finds it."""
        if THREADS == 1:
            step(request)
        else:
            self.ready.put((step, request))

    def requested(self, request):
        path = request.path
        kind = request.kind
        if kind.startswith("calls"):
            for number in range(3):
                self.call(f"{path}/{number}", request)
        elif kind == "timer":
            self.later(0.02, lambda: self.call(f"{path}/0", request))
        elif kind == "spawn":
            thread = threading.Thread(target=self.call_and_wait, args=(f"{path}/0",))
            thread.start()
            thread.join()
            # That is before the system's thread has ended.
            while os.path.exists(f"/proc/self/task/{thread.native_id}"):
                time.sleep(0.0001)
            self.answer(request)
        elif kind == "burst":
            self.call(f"{path}/0", request)
        else:
            self.answer(request)
            self.later(0.03, lambda: self.jobs(path))

    def replied(self, request):
        if not request:
            return
        with self.lock:
            request.awaited -= 1
            is_last = request.awaited == 0
        if is_last:
            if request.path.startswith("/burst/"):
                self.jobs(request.path)
            self.answer(request)

    def answer(self, request):
        self.watch(request.connection)
        request.connection.sendall(answer(request.path))

    def step(self):
        """One thing that is due, if there is one: a timer's, or what a loop left."""
        with self.lock:
            is_due = self.timers and self.timers[0][0] <= time.monotonic()
            what = heapq.heappop(self.timers)[2] if is_due else None
        if what:
            what()
            return True
        try:
            step, request = self.ready.get_nowait()
        except queue.Empty:
            return False
        step(request)
        return True

    def run(self):
        while True:
            while self.step():
                pass
            with self.lock:
                found = self.poll.select(0)
                for key, _ in found:
                    self.poll.unregister(key.fileobj)
            for key, _ in found:
                self.received(key.fileobj)
            if not found and THREADS > 1:
                time.sleep(0.0005)


def main():
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    if os.fork() == 0:
        backend(listener)
    service = Service(listener.getsockname()[1])
    listener.close()
    for _ in range(THREADS - 1):
        threading.Thread(target=service.run, daemon=True).start()
    service.run()


main()
