use super::*;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A proc file system of the test's own, removed with it.
struct FakeProc {
    root: PathBuf,
}

impl FakeProc {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "tracewire-proc-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let root = std::env::temp_dir().join(name);
        fs::create_dir_all(&root).expect("the temporary directory is writable");
        Self { root }
    }

    fn add(&self, tgid: u32, exe: &str, cmdline: &str, started: u64) {
        let dir = self.root.join(tgid.to_string());
        // An earlier process of the same id.
        let _ = fs::remove_dir_all(&dir);
        let write = |file: &str, text: &str| {
            fs::write(dir.join(file), text).expect("the fake proc is writable");
        };
        fs::create_dir_all(&dir).expect("the fake proc is writable");
        write("cmdline", cmdline);
        write("comm", "comm\n");
        write("environ", "");
        write("cgroup", &format!("0::/docker/{:064x}\n", tgid));
        write("stat", &format!("{tgid} (x) {} {started} 0", ["0"; 19].join(" ")));
        symlink(Path::new(exe), dir.join("exe")).expect("the fake proc is writable");
    }

    fn remove(&self, tgid: u32) {
        fs::remove_dir_all(self.root.join(tgid.to_string())).expect("the process was added");
    }

    fn table(&self) -> ProcessTable {
        self.table_with(Box::new(|_| true))
    }

    fn table_with(&self, filter: ExecutableFilter) -> ProcessTable {
        let metrics = Arc::new(Metrics::default());
        ProcessTable::new(ProcFs::at(&self.root), Host::detect(), filter, metrics)
    }
}

impl Drop for FakeProc {
    fn drop(&mut self) {
        // Best effort; the directory is a temporary one.
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn exec(tgid: u32) -> ProcessExec {
    ProcessExec { tgid, time_ns: 1, cgroup_id: 9, ..ProcessExec::default() }
}

fn event(tgid: u32, parent_tgid: u32, time_ns: u64) -> ProcessEvent {
    ProcessEvent { tgid, parent_tgid, time_ns, ..ProcessEvent::default() }
}

fn name(table: &mut ProcessTable, tgid: u32, now_ns: u64) -> String {
    table.resource(tgid, 0, now_ns).map_or("excluded".into(), |r| r.service_name.to_string())
}

fn text(resource: &Resource, key: &str) -> Option<String> {
    resource.attributes.iter().find(|(k, _)| k == key).map(|(_, value)| match value {
        ResourceValue::Text(text) => text.to_string(),
        ResourceValue::Integer(number) => number.to_string(),
    })
}

#[test]
fn a_process_older_than_the_agent_is_read_from_proc() {
    let proc = FakeProc::new();
    proc.add(7, "/usr/bin/python3.11", "python3\0/srv/cart.py\0", 100);
    let resource = proc.table().resource(7, 0, 1).expect("nothing is excluded");
    assert_eq!(&*resource.service_name, "cart");
    assert_eq!(text(&resource, "process.pid").as_deref(), Some("7"));
    assert_eq!(text(&resource, "process.executable.path").as_deref(), Some("/usr/bin/python3.11"));
    assert_eq!(text(&resource, "container.id"), Some(format!("{:064x}", 7)));
}

#[test]
fn two_python_services_are_two_services() {
    let proc = FakeProc::new();
    proc.add(7, "/usr/bin/python3", "python3\0cart.py\0", 100);
    proc.add(8, "/usr/bin/python3", "python3\0stock.py\0", 100);
    let mut table = proc.table();
    assert_eq!(name(&mut table, 7, 1), "cart");
    assert_eq!(name(&mut table, 8, 1), "stock");
}

#[test]
fn a_process_that_is_gone_keeps_the_name_of_its_exec() {
    let proc = FakeProc::new();
    let mut table = proc.table();
    table.on_exec(&exec(7), b"python3\0job.py\0", b"OTEL_SERVICE_NAME=nightly\0");
    table.on_exit(&event(7, 0, 2));
    assert_eq!(name(&mut table, 7, 3), "nightly");
    table.sweep(3 + KEEP_EXITED_NS);
    assert_eq!(name(&mut table, 7, 3 + KEEP_EXITED_NS), "unknown_service");
}

#[test]
fn a_forked_child_is_its_parent_until_it_runs_a_program() {
    let proc = FakeProc::new();
    let mut table = proc.table();
    table.on_exec(&exec(7), b"/srv/parent\0", b"A=1\0");
    table.on_fork(&event(8, 7, 2));
    assert_eq!(name(&mut table, 8, 3), "parent");
    let (parent, child) = (table.resource(7, 0, 3), table.resource(8, 0, 3));
    let id =
        |resource: Option<Arc<Resource>>| text(&resource.expect("known"), "service.instance.id");
    assert_ne!(id(parent), id(child));
    table.on_exec(&exec(8), b"/srv/child\0", b"A=1\0");
    assert_eq!(name(&mut table, 8, 4), "child");
}

#[test]
fn a_child_of_a_parent_older_than_the_agent_gets_the_parents_name() {
    let proc = FakeProc::new();
    proc.add(7, "/srv/parent", "/srv/parent\0", 100);
    let mut table = proc.table();
    table.on_fork(&event(8, 7, 2));
    table.on_fork(&event(9, 8, 2));
    assert_eq!(name(&mut table, 9, 3), "parent");
}

#[test]
fn a_reused_process_id_is_another_process() {
    let proc = FakeProc::new();
    proc.add(7, "/srv/old", "/srv/old\0", 100);
    let mut table = proc.table();
    assert_eq!(name(&mut table, 7, 1), "old");
    proc.add(7, "/srv/new", "/srv/new\0", 200);
    assert_eq!(name(&mut table, 7, 2), "old");
    assert_eq!(name(&mut table, 7, 2 + VERIFY_NS), "new");
    proc.remove(7);
    assert_eq!(name(&mut table, 7, 3 + 2 * VERIFY_NS), "new");
}

#[test]
fn an_excluded_program_has_no_resource_until_another_is_run() {
    let proc = FakeProc::new();
    let mut table = proc.table_with(Box::new(|path| path != Some("secret")));
    table.on_exec(&exec(7), b"/srv/secret\0", b"A=1\0");
    assert_eq!(name(&mut table, 7, 1), "excluded");
    table.on_exec(&exec(7), b"/srv/open\0", b"A=1\0");
    assert_eq!(name(&mut table, 7, 2), "open");
}

#[test]
fn nobody_is_an_unknown_service_with_the_hosts_attributes() {
    let proc = FakeProc::new();
    let resource = proc.table().resource(0, 0, 1).expect("nothing is excluded");
    assert_eq!(&*resource.service_name, "unknown_service");
    assert!(text(&resource, "host.arch").is_some());
}

#[test]
fn a_full_table_forgets_those_who_left_first() {
    let proc = FakeProc::new();
    let mut table = proc.table();
    table.max_processes = 2;
    table.on_exec(&exec(7), b"a\0", b"A=1\0");
    table.on_exec(&exec(8), b"b\0", b"A=1\0");
    table.on_exit(&event(7, 0, 2));
    table.on_exec(&ProcessExec { time_ns: 2 * SWEEP_NS, ..exec(9) }, b"c\0", b"A=1\0");
    assert_eq!(name(&mut table, 8, 2 * SWEEP_NS), "b");
    assert_eq!(table.metrics.get(Metric::ProcessesEvicted), 0);
    table.on_exec(&exec(10), b"d\0", b"A=1\0");
    assert_eq!(table.processes.len(), 2);
    assert_eq!(table.metrics.get(Metric::ProcessesEvicted), 1);
}

#[test]
fn a_table_full_of_long_environments_keeps_no_more_than_it_may() {
    let proc = FakeProc::new();
    let mut table = proc.table();
    table.max_bytes = 100_000;
    let environ = format!("OTEL_RESOURCE_ATTRIBUTES=k={}\0", "v".repeat(10_000));
    for tgid in 1..=100 {
        table.on_exec(&exec(tgid), b"a\0", environ.as_bytes());
        // Named, it is kept a second time.
        assert_eq!(name(&mut table, tgid, 1), "a");
        assert!(table.bytes <= 100_000, "{}", table.bytes);
    }
    let kept: usize = table.processes.values().map(Process::weight).sum();
    assert_eq!(table.bytes, kept);
    let count = table.processes.len() as u64;
    assert!((3..=9).contains(&count), "{count}");
    assert_eq!(table.metrics.get(Metric::ProcessesEvicted), 100 - count);
}
