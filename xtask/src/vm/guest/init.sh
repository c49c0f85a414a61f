#!/vm/bin/busybox sh
# The first process of a guest: looks at the kernel and the agent, runs tests, powers off.
# What is for xtask is a line that starts with "@vm" on the second serial port; the
# kernel's own words are on the first.

/vm/bin/busybox --install -s /vm/bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:/vm/bin HOME=/root LANG=C.UTF-8

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
ln -s /proc/self/fd /dev/fd
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t tracefs trace /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf

exec >/dev/ttyS1 2>&1 </dev/null
stty -F /dev/ttyS1 raw 2>/dev/null

say() { echo "@vm $*"; }

# The lines of a file, each for xtask and under a word.
pass_on() { sed "s/^/@vm $1 /" "$2"; }

say kernel "$(uname -r)"
ifconfig lo 127.0.0.1 up
hostname guest
for module in /vm/modules/*; do
    insmod "$module" || say failed "cannot load $module"
done

/vm/probe kernel >/tmp/offers || say failed "the probe of the kernel ended with $?"
pass_on probe /tmp/offers

start=$(date +%s)
/vm/tracewire check --cgroup /sys/fs/cgroup >/tmp/check 2>&1
code=$?
pass_on check /tmp/check
say check-exit "$code" "$(($(date +%s) - start))"

mkdir /sys/fs/cgroup/smoke
start=$(date +%s)
/vm/tracewire run --cgroup /sys/fs/cgroup/smoke >/tmp/run 2>&1 &
agent=$!
ready=no
for _ in $(seq "$READY_SECONDS"); do
    if grep -q ready /tmp/run; then
        ready=yes
        break
    fi
    kill -0 "$agent" 2>/dev/null || break
    sleep 1
done
say run-ready "$ready" "$(($(date +%s) - start))"
if [ "$ready" = yes ]; then
    /vm/probe agent "$agent" >/tmp/uses || say failed "the probe of the agent ended with $?"
    pass_on probe /tmp/uses
fi
kill "$agent" 2>/dev/null
wait "$agent"
code=$?
pass_on run /tmp/run
say run-exit "$code"
rmdir /sys/fs/cgroup/smoke

# A program, by a name and its command. What it says is left to be read by xtask as it is.
program() {
    name=$1
    shift
    say binary "$name"
    timeout -k 10 "$BINARY_SECONDS" "$@"
    say binary-exit "$name" "$?"
}

# A file of tests.
binary() { program "$@" --test-threads=1; }

export TRACEWIRE_BIN=/vm/tracewire TRACEWIRE_TEST_SLOW=$SLOW
# A guest has not all that tests need; each says what it leaves out.
export TRACEWIRE_TEST_MAY_SKIP=1
# Without an agent that works each test would only wait for one.
if [ "$ready" = yes ]; then
    . /vm/tests
fi

# The kernel's complaints about what was done to it.
dmesg | grep -E 'BUG:|Oops|WARNING:|Call Trace|deadlock|lockup|stalls? on|blocked for more|general protection' \
    >/tmp/complaints
pass_on kernel-complains /tmp/complaints
say end
sleep 1
reboot -f
