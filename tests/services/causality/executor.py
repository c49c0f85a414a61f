"""CPython, one thread per connection that hands its calls to a ThreadPoolExecutor, with requests.

Typical: the thread that reads the request waits for the futures of jobs that threads of one
shared pool do. A job is one call, or all that a request needs: a wait and a call, or two tries.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer

import calls
from calls import get
from handler import handler

pool = ThreadPoolExecutor(max_workers=int(os.environ.get("WORKERS", "384")))


def one(id):
    pool.submit(get, f"/one/{id}/0").result()


def sequence(id):
    for i in range(3):
        pool.submit(get, f"/sequence/{id}/{i}").result()


def parallel(id):
    list(pool.map(get, [f"/parallel/{id}/{i}" for i in range(3)]))


def timer(id):
    pool.submit(calls.timer, id).result()


def background(id):
    def later():
        time.sleep(0.03)
        get(f"/background/{id}/0")

    pool.submit(later)


def retry(id):
    pool.submit(calls.retry, id).result()


def datastore(id):
    pool.submit(calls.datastore, id).result()


FUNCTIONS = (one, sequence, parallel, timer, background, retry, datastore)
PATTERNS = {f.__name__: f for f in FUNCTIONS}


class Server(ThreadingHTTPServer):
    request_queue_size = 512


Server(("127.0.0.1", int(os.environ["PORT"])), handler(PATTERNS)).serve_forever()
