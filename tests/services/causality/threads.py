"""CPython, one thread per connection: http.server with requests.

Typical: the thread that reads the request also makes the blocking outbound
calls; parallel calls go to a shared thread pool, delayed ones to a Timer thread.
"""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests
from requests.adapters import HTTPAdapter

NEXT = "http://" + os.environ["NEXT"]

session = requests.Session()
session.trust_env = False
session.mount("http://", HTTPAdapter(pool_maxsize=512))
pool = ThreadPoolExecutor(max_workers=384)


def get(path):
    return session.get(NEXT + path, timeout=20).status_code


def one(id):
    get(f"/one/{id}/0")


def sequence(id):
    for i in range(3):
        get(f"/sequence/{id}/{i}")


def parallel(id):
    list(pool.map(get, [f"/parallel/{id}/{i}" for i in range(3)]))


def timer(id):
    time.sleep(0.02)
    get(f"/timer/{id}/0")


def background(id):
    job = threading.Timer(0.03, get, [f"/background/{id}/0"])
    job.daemon = True
    job.start()


def retry(id):
    if get(f"/retry/{id}/0") == 503:
        get(f"/retry/{id}/1")


PATTERNS = {f.__name__: f for f in (one, sequence, parallel, timer, background, retry)}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and content in one send.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self):
        pattern, _, id = self.path[1:].partition("/")
        if pattern not in PATTERNS or not id.isdigit():
            self.send_error(404)
            return
        PATTERNS[pattern](id)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 512


Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
