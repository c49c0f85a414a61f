// What the agent looks for in Node.js: the seed `programs/node`.
// gcc -O1 -shared -fPIC -nostdlib -fno-asynchronous-unwind-tables -fno-ident -Wl,-z,max-page-size=64 -Wl,-z,noseparate-code -Wl,--build-id=none -s

void _ZN4node11Environment9RunTimersEP10uv_timer_s(void **timer) { *timer = 0; }
