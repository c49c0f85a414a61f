"""What the services that use requests have in common: one pooled client, and the patterns
that are the same whatever runs them. gevent patches the standard library before it is read.
"""

import os
import time

import requests
from requests.adapters import HTTPAdapter

from store import Store

NEXT = "http://" + os.environ["NEXT"]

session = requests.Session()
session.trust_env = False
session.mount("http://", HTTPAdapter(pool_maxsize=512))
store = Store()


def get(path):
    return session.get(NEXT + path, timeout=20).status_code


def one(id):
    get(f"/one/{id}/0")


def sequence(id):
    for i in range(3):
        get(f"/sequence/{id}/{i}")


def timer(id):
    time.sleep(0.02)
    get(f"/timer/{id}/0")


def retry(id):
    if get(f"/retry/{id}/0") == 503:
        get(f"/retry/{id}/1")


def datastore(id):
    store.query(id)
    get(f"/datastore/{id}/0")


def patterns(parallel, background):
    functions = (one, sequence, parallel, timer, background, retry, datastore)
    return {f.__name__: f for f in functions}
