//! Which container a process runs in.

/// The id of the container, from the text of `/proc/PID/cgroup`.
///
/// The runtimes write it into the last parts of the path, in forms of their own:
/// `/docker/ID`, `/system.slice/docker-ID.scope`, `…/cri-containerd-ID.scope`,
/// `…/crio-ID.scope`, `/machine.slice/libpod-ID.scope/container`,
/// `/kubepods/besteffort/podUID/ID`, `…:cri-containerd:ID`, and for ECS
/// `/ecs/TASK/TASK-NUMBER`. An id is 64 hexadecimal digits; with ECS, 32 of them,
/// a hyphen and a number.
pub(crate) fn from_cgroup(text: &str) -> Option<&str> {
    text.lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .find_map(|path| path.rsplit('/').find_map(from_segment))
}

/// Whether the paths of a `/proc/PID/cgroup` say nothing: seen from inside
/// another cgroup namespace they begin at its root.
pub(crate) fn is_cgroup_opaque(text: &str) -> bool {
    text.lines().all(|line| {
        line.splitn(3, ':').nth(2).is_none_or(|path| path == "/" || path.starts_with("/.."))
    })
}

/// The id of the container, from the text of `/proc/PID/mountinfo`: Docker and
/// Podman mount files of theirs into a container, from a directory named for it.
pub(crate) fn from_mountinfo(text: &str) -> Option<&str> {
    text.match_indices("containers/")
        .filter_map(|(at, marker)| text[at + marker.len()..].split('/').next())
        .find(|id| is_id(id))
}

fn from_segment(segment: &str) -> Option<&str> {
    let name = segment.strip_suffix(".scope").unwrap_or(segment);
    // Podman names its monitor's group by the same id.
    if name.starts_with("libpod-conmon-") || name.starts_with("crio-conmon-") {
        return None;
    }
    let id = name.rsplit(['-', ':']).next()?;
    if is_id(id) {
        return Some(id);
    }
    let (task, number) = name.split_once('-')?;
    let is_ecs = task.len() == 32
        && is_hex(task)
        && !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit());
    is_ecs.then_some(name)
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && is_hex(text)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "8f1c2b3a4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8";

    #[test]
    fn every_runtime_is_recognised() {
        for path in [
            "/docker/ID",
            "/system.slice/docker-ID.scope",
            "/system.slice/containerd.service/kubepods-burstable-pod1_2.slice:cri-containerd:ID",
            "/kubepods.slice/kubepods-pod1_2.slice/cri-containerd-ID.scope",
            "/kubepods.slice/kubepods-pod1_2.slice/crio-ID.scope",
            "/kubepods/besteffort/pod5-6/ID",
            "/machine.slice/libpod-ID.scope",
            "/machine.slice/libpod-ID.scope/container",
        ] {
            let text = format!("0::{}\n", path.replace("ID", ID));
            assert_eq!(from_cgroup(&text), Some(ID), "{path}");
        }
    }

    #[test]
    fn ecs_names_a_task_and_a_number() {
        let text = "1:name=systemd:/ecs/0123456789abcdef0123456789abcdef/0123456789abcdef0123456789abcdef-2574823563\n";
        assert_eq!(from_cgroup(text), Some("0123456789abcdef0123456789abcdef-2574823563"));
    }

    #[test]
    fn processes_outside_containers_have_no_id() {
        for path in
            ["/", "/user.slice/user-1000.slice/session-2.scope", "/system.slice/nginx.service"]
        {
            assert_eq!(from_cgroup(&format!("0::{path}\n")), None, "{path}");
        }
        let monitor = format!("0::/machine.slice/libpod-conmon-{ID}.scope\n");
        assert_eq!(from_cgroup(&monitor), None);
    }

    #[test]
    fn only_a_root_or_a_way_up_is_opaque() {
        assert!(is_cgroup_opaque("0::/\n"));
        assert!(is_cgroup_opaque("0::/../../x\n"));
        assert!(!is_cgroup_opaque("1:cpu:/\n0::/system.slice\n"));
    }

    #[test]
    fn mounts_name_the_container_too() {
        let docker =
            format!("700 1 8:1 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw\n");
        assert_eq!(from_mountinfo(&docker), Some(ID));
        let podman = format!(
            "9 1 0:1 /containers/storage/overlay-containers/{ID}/userdata/hosts /etc/hosts rw\n"
        );
        assert_eq!(from_mountinfo("1 2 0:3 / /proc rw\n"), None);
        assert_eq!(from_mountinfo(&podman), Some(ID));
    }
}
