// What the agent looks for in a program on tokio: its name, a table of a type of task, and that of its waker,
// whose functions count in steps of 64. The seed `programs/tokio`.
// gcc -O1 -shared -fPIC -nostdlib -fno-asynchronous-unwind-tables -fno-ident -Wl,-z,max-page-size=64 -Wl,-z,noseparate-code -Wl,--build-id=none -s

const char name[] = "tokio-runtime-worker";

static void poll(long *task) { task[1] = 1; }
static void schedule(long *task) { task[1] = 2; }
static void dealloc(long *task) { task[1] = 3; }
static void read_output(long *task) { task[1] = 4; }
static void drop_handle(long *task) { task[1] = 5; }
static void drop_abort(long *task) { task[1] = 6; }
static void shutdown(long *task) { task[1] = 7; }

static long waker_clone(long *task) { return __atomic_fetch_add(task, 64, __ATOMIC_ACQ_REL); }
static void wake_by_val(long *task) { task[2] = 1; }
static void wake_by_ref(long *task) { task[2] = 2; }
static long waker_drop(long *task) { return __atomic_fetch_add(task, -64, __ATOMIC_ACQ_REL); }

typedef struct {
    void (*functions[7])(long *);
    unsigned long trailer, scheduler, id;
} Table;

const Table table = {
    {poll, schedule, dealloc, read_output, drop_handle, drop_abort, shutdown}, 128, 32, 40,
};

const void *const waker[4] = {waker_clone, wake_by_val, wake_by_ref, waker_drop};
