"""CPython, WSGI app for gunicorn's gthread worker, client requests.

Typical: the worker's main thread accepts and polls the idle connections, a
thread of its pool reads the request and makes the blocking calls; consecutive
requests of one connection may run in different threads. Parallel and
background work goes to a second pool.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor

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
    calls = [pool.submit(get, f"/parallel/{id}/{i}") for i in range(3)]
    for call in calls:
        call.result()


def timer(id):
    time.sleep(0.02)
    get(f"/timer/{id}/0")


def later(path):
    time.sleep(0.03)
    get(path)


def background(id):
    pool.submit(later, f"/background/{id}/0")


def retry(id):
    if get(f"/retry/{id}/0") == 503:
        get(f"/retry/{id}/1")


PATTERNS = {f.__name__: f for f in (one, sequence, parallel, timer, background, retry)}


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
