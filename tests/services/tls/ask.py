"""A client that asks a service over TLS from several threads. Knows nothing of tracing.

Each thread has a connection of its own. With GATE, each stops after so many requests. When all have,
it says `gate`, and goes on when a line comes. Says `asked` when every answer was right.
"""

import http.client
import os
import ssl
import sys
import threading

PORT, THREADS, REQUESTS = (int(os.environ[name]) for name in ("PORT", "THREADS", "REQUESTS"))
GATE = int(os.environ.get("GATE", "0"))
HEADERS = {"Authorization": os.environ["SECRET"]} if "SECRET" in os.environ else {}

context = ssl.create_default_context(cafile=os.environ["TLS"] + "/certificate.pem")
arrived, opened = threading.Semaphore(0), threading.Event()
wrong = []


def ask(thread):
    connection = http.client.HTTPSConnection("127.0.0.1", PORT, timeout=20, context=context)
    for number in range(REQUESTS):
        if GATE and number == GATE:
            arrived.release()
            opened.wait()
        path = f"/{thread}/{number}"
        size = (thread * 7919 + number * 997) % 50000
        secret = os.environ.get("SECRET", "x").encode()
        content = (secret * (size // len(secret) + 1))[:size]
        connection.request("POST", path, body=content, headers=HEADERS)
        answer = connection.getresponse().read()
        if answer != f"leaf {path}\n{size} bytes\n".encode():
            wrong.append((path, answer))
    connection.close()


threads = [threading.Thread(target=ask, args=(thread,)) for thread in range(THREADS)]
for thread in threads:
    thread.start()
if GATE:
    for thread in threads:
        arrived.acquire()
    print("gate", flush=True)
    sys.stdin.readline()
    opened.set()
for thread in threads:
    thread.join()
print(f"wrong {wrong[:3]}" if wrong else "asked", flush=True)
