// What the agent looks for in CPython, and in the module of its queues: the seed `programs/python`.
// gcc -O1 -shared -fPIC -nostdlib -fno-asynchronous-unwind-tables -fno-ident -Wl,-z,max-page-size=64 -Wl,-z,noseparate-code -Wl,--build-id=none -s

typedef struct {
    const char *name;
    void *function;
    long flags;
    const char *documentation;
} Method;

const unsigned long Py_Version = 0x030b02f0;

void *PyContext_CopyCurrent(void) { return (void *)1; }
void *PyContext_New(void) { return (void *)2; }
void *PyContext_Copy(void *context) { return context; }
int PyContext_Enter(void *context) { return context == 0; }
void *PyInit__queue(void) { return (void *)3; }

static void *tp_new(void *type) { return type; }
static void *run(void *self) { return self; }
static void *copy(void *self) { return (char *)self + 1; }
static void *items(void *self) { return (char *)self + 2; }
static void *keys(void *self) { return (char *)self + 3; }
static void *copy_context(void) { return (void *)4; }
static void *get_nowait(void *self) { return (char *)self + 4; }
static void *get(void *self) { return (char *)self + 5; }
static void *put(void *self) { return (char *)self + 6; }

// tp_new is 312 bytes behind the start.
void *PyContext_Type[40] = {[39] = tp_new};

Method context_methods[] = {
    {"run", run}, {"copy", copy}, {"items", items}, {"keys", keys}, {0},
};
Method module_methods[] = {{"copy_context", copy_context}, {0}};
Method queue_methods[] = {{"get", get}, {"get_nowait", get_nowait}, {"put", put}, {0}};
