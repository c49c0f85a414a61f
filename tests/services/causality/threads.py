"""CPython, one thread per connection: http.server with requests.

Typical: the thread that reads the request also makes the blocking outbound
calls; parallel calls go to a shared thread pool, delayed ones to a Timer thread.
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from calls import get, patterns

pool = ThreadPoolExecutor(max_workers=384)


def parallel(id):
    list(pool.map(get, [f"/parallel/{id}/{i}" for i in range(3)]))


def background(id):
    job = threading.Timer(0.03, get, [f"/background/{id}/0"])
    job.daemon = True
    job.start()


PATTERNS = patterns(parallel, background)


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
