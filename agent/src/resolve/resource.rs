//! A resource: what is said of the process that a span belongs to.

use super::host::Host;
use super::identity::Identity;
use std::borrow::Cow;
use std::sync::Arc;
use uuid::Uuid;

/// The namespace of name-based instance ids, fixed by the semantic conventions
/// for `service.instance.id`.
const INSTANCE_NAMESPACE: Uuid = Uuid::from_u128(0x4d63009a_8d0f_11ee_aad7_4c796ed8e320);

/// The name of a service of which nothing is known (semantic conventions).
const UNKNOWN_SERVICE: &str = "unknown_service";

/// A value of a resource attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ResourceValue {
    /// A text.
    Text(Box<str>),
    /// A whole number.
    Integer(i64),
}

/// Attributes of one process. Shared by all its spans; compared by address.
#[derive(Debug)]
pub(crate) struct Resource {
    /// `service.name`.
    pub(crate) service_name: Box<str>,
    /// All attributes except `service.name`; keys are unique.
    pub(crate) attributes: Vec<(Cow<'static, str>, ResourceValue)>,
}

/// What tells one process from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instance {
    /// The process id, in the initial pid namespace.
    pub(crate) tgid: u32,
    /// When it started, in any unit that is the same each time it is asked for.
    pub(crate) started: u64,
}

impl Resource {
    /// The resource of spans whose process is not known.
    pub(crate) fn unknown() -> Self {
        Self { service_name: UNKNOWN_SERVICE.into(), attributes: Vec::new() }
    }

    /// The resource of spans whose process is not known, on this host.
    pub(crate) fn unknown_on(host: &Host) -> Self {
        Self { attributes: host.attributes.to_vec(), ..Self::unknown() }
    }

    /// The resource of one process. What the process says of itself wins over
    /// what is found out about it.
    pub(crate) fn of_process(
        identity: &Identity,
        instance: Instance,
        container_id: Option<Arc<str>>,
        host: &Host,
    ) -> Self {
        let mut resource = Self {
            service_name: identity.service_name.clone().unwrap_or_else(|| {
                match identity.executable_name.as_deref() {
                    Some(name) => format!("{UNKNOWN_SERVICE}:{name}").into(),
                    None => UNKNOWN_SERVICE.into(),
                }
            }),
            attributes: Vec::with_capacity(identity.attributes.len() + 16),
        };
        for (key, value) in &identity.attributes {
            resource.push(key.to_string().into(), ResourceValue::Text(value.clone()));
        }
        let text = |text: &str| ResourceValue::Text(text.into());
        resource.push("service.instance.id".into(), text(&instance_id(instance, host)));
        resource.push("process.pid".into(), ResourceValue::Integer(instance.tgid.into()));
        if let Some(name) = &identity.executable_name {
            resource.push("process.executable.name".into(), text(name));
        }
        if let Some(path) = &identity.executable_path {
            resource.push("process.executable.path".into(), text(path));
        }
        if let Some(runtime) = identity.runtime {
            resource.push("process.runtime.name".into(), text(runtime));
        }
        if let Some(id) = container_id {
            resource.push("container.id".into(), text(&id));
        }
        for (key, value) in host.attributes.iter() {
            resource.push(key.clone(), value.clone());
        }
        resource
    }

    /// Bytes that it takes, about.
    pub(crate) fn weight(&self) -> usize {
        let attribute = |pair: &(Cow<'static, str>, ResourceValue)| {
            let key = if let Cow::Owned(key) = &pair.0 { key.len() } else { 0 };
            let value = if let ResourceValue::Text(text) = &pair.1 { text.len() } else { 0 };
            size_of_val(pair) + key + value
        };
        size_of::<Self>()
            + self.service_name.len()
            + self.attributes.iter().map(attribute).sum::<usize>()
    }

    fn push(&mut self, key: Cow<'static, str>, value: ResourceValue) {
        if !self.attributes.iter().any(|(present, _)| *present == key) {
            self.attributes.push((key, value));
        }
    }
}

/// The same for one process whenever it is asked for, also by a restarted agent.
fn instance_id(instance: Instance, host: &Host) -> String {
    let name = format!("{}/{}/{}", host.boot_id, instance.tgid, instance.started);
    Uuid::new_v5(&INSTANCE_NAMESPACE, name.as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(identity: &Identity, tgid: u32) -> Resource {
        let instance = Instance { tgid, started: 5 };
        Resource::of_process(identity, instance, Some("c0ffee".into()), &Host::detect())
    }

    fn get<'a>(resource: &'a Resource, key: &str) -> Option<&'a ResourceValue> {
        resource.attributes.iter().find(|(k, _)| k == key).map(|(_, value)| value)
    }

    #[test]
    fn the_instance_id_is_stable_and_differs_between_processes() {
        let identity = Identity::default();
        let id = |tgid| get(&resource(&identity, tgid), "service.instance.id").cloned();
        assert_eq!(id(7), id(7));
        assert_ne!(id(7), id(8));
    }

    #[test]
    fn what_a_process_says_of_itself_wins_and_no_key_comes_twice() {
        let identity = Identity {
            service_name: Some("cart".into()),
            attributes: vec![
                ("host.name".into(), "mine".into()),
                ("service.version".into(), "1.2".into()),
            ],
            ..Identity::default()
        };
        let resource = resource(&identity, 7);
        assert_eq!(&*resource.service_name, "cart");
        assert_eq!(get(&resource, "host.name"), Some(&ResourceValue::Text("mine".into())));
        assert_eq!(get(&resource, "service.version"), Some(&ResourceValue::Text("1.2".into())));
        assert_eq!(get(&resource, "container.id"), Some(&ResourceValue::Text("c0ffee".into())));
        let mut keys: Vec<_> = resource.attributes.iter().map(|(key, _)| key.clone()).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), resource.attributes.len());
    }

    #[test]
    fn a_process_without_name_is_an_unknown_service() {
        assert_eq!(&*resource(&Identity::default(), 7).service_name, "unknown_service");
    }
}
