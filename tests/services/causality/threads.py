"""CPython, one thread per connection: http.server with requests.

Typical: the thread that reads the request also makes the blocking outbound
calls; parallel calls go to a shared thread pool, delayed ones to a Timer thread.
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer

from calls import get, patterns
from handler import handler

pool = ThreadPoolExecutor(max_workers=384)


def parallel(id):
    list(pool.map(get, [f"/parallel/{id}/{i}" for i in range(3)]))


def background(id):
    job = threading.Timer(0.03, get, [f"/background/{id}/0"])
    job.daemon = True
    job.start()


PATTERNS = patterns(parallel, background)


class Server(ThreadingHTTPServer):
    request_queue_size = 512


Server(("127.0.0.1", int(os.environ["PORT"])), handler(PATTERNS)).serve_forever()
