// What the agent looks for in gevent's greenlets, and in modules that have a loop of their own: the seed
// `programs/gevent`.
// gcc -O1 -shared -fPIC -nostdlib -fno-asynchronous-unwind-tables -fno-ident -Wl,-z,max-page-size=64 -Wl,-z,noseparate-code -Wl,--build-id=none -s

extern int PyContext_Enter(void *context);

void *PyInit__gevent_cgreenlet(void) { return (void *)(long)PyContext_Enter(0); }
