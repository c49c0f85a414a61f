"""CPython, WSGI app for gunicorn's gthread worker, client requests.

Typical: the worker's main thread accepts and polls the idle connections, a
thread of its pool reads the request and makes the blocking calls; consecutive
requests of one connection may run in different threads. Parallel and
background work goes to a second pool.
"""

import time
from concurrent.futures import ThreadPoolExecutor

from calls import get, patterns

pool = ThreadPoolExecutor(max_workers=384)


def parallel(id):
    calls = [pool.submit(get, f"/parallel/{id}/{i}") for i in range(3)]
    for call in calls:
        call.result()


def later(path):
    time.sleep(0.03)
    get(path)


def background(id):
    pool.submit(later, f"/background/{id}/0")


PATTERNS = patterns(parallel, background)


def app(environ, start_response):
    pattern, _, id = environ["PATH_INFO"][1:].partition("/")
    if pattern in PATTERNS and id.isdigit():
        PATTERNS[pattern](id)
        status, content = "200 OK", b"ok"
    else:
        status, content = "404 Not Found", b"not found"
    head = [("Content-Type", "text/plain"), ("Content-Length", str(len(content)))]
    start_response(status, head)
    return [content]
