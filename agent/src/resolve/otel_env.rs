//! What a process says of itself in the environment variables that OpenTelemetry
//! defines for its SDKs.

use super::percent::decode;

/// The longest list of attributes that is looked at, in bytes.
const MAX_ATTRIBUTES_LEN: usize = 16 * 1024;

/// The variables that matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OtelEnv {
    /// `OTEL_SERVICE_NAME`, or `service.name` of the attributes.
    pub(crate) service_name: Option<Box<str>>,
    /// `OTEL_RESOURCE_ATTRIBUTES` without `service.name`.
    pub(crate) attributes: Vec<(Box<str>, Box<str>)>,
}

impl OtelEnv {
    /// Reads a NUL-separated environment. The last variable counts only if its
    /// NUL is there: a cut one would be wrong.
    pub(crate) fn parse(environ: &[u8]) -> Self {
        let mut env = Self::default();
        let mut named = None;
        let mut rest = environ;
        while let Some(end) = rest.iter().position(|&byte| byte == 0) {
            let (variable, after) = rest.split_at(end);
            rest = &after[1..];
            if !variable.starts_with(b"OTEL_") {
                continue;
            }
            let Ok(variable) = std::str::from_utf8(variable) else {
                continue;
            };
            match variable.split_once('=') {
                // An empty value counts as unset (specification, environment variables).
                Some(("OTEL_SERVICE_NAME", name)) if !name.is_empty() => named = Some(name.into()),
                Some(("OTEL_RESOURCE_ATTRIBUTES", list)) if list.len() <= MAX_ATTRIBUTES_LEN => {
                    env.attributes = parse_attributes(list).unwrap_or_default();
                }
                _ => {}
            }
        }
        if let Some(at) = env.attributes.iter().position(|(key, _)| &**key == "service.name") {
            env.service_name = Some(env.attributes.swap_remove(at).1);
        }
        env.service_name = named.or(env.service_name);
        env
    }
}

/// Reads `key=value,key2=value2`, both percent-encoded where they hold a comma or
/// an equals sign. `None` if anything is malformed: the specification of the
/// resource SDK then discards the whole. Of a repeated key the last one counts.
fn parse_attributes(list: &str) -> Option<Vec<(Box<str>, Box<str>)>> {
    let mut attributes: Vec<(Box<str>, Box<str>)> = Vec::new();
    for pair in list.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=')?;
        let key = decode(key.trim()).filter(|key| !key.is_empty())?.into_boxed_str();
        let value = decode(value.trim())?.into_boxed_str();
        match attributes.iter_mut().find(|(present, _)| *present == key) {
            Some(present) => present.1 = value,
            None => attributes.push((key, value)),
        }
    }
    Some(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_name_variable_wins_over_the_attribute() {
        let env = OtelEnv::parse(
            b"PATH=/bin\0OTEL_RESOURCE_ATTRIBUTES=service.name=a,x=1\0OTEL_SERVICE_NAME=b\0",
        );
        assert_eq!(env.service_name.as_deref(), Some("b"));
        assert_eq!(env.attributes, [("x".into(), "1".into())]);
        let env = OtelEnv::parse(b"OTEL_RESOURCE_ATTRIBUTES=service.name=a\0OTEL_SERVICE_NAME=\0");
        assert_eq!(env.service_name.as_deref(), Some("a"));
    }

    #[test]
    fn attributes_are_decoded_and_trimmed() {
        let env = OtelEnv::parse(
            b"OTEL_RESOURCE_ATTRIBUTES= a = x%2Cy , deployment.environment.name=prod,a=z\0",
        );
        assert_eq!(
            env.attributes,
            [("a".into(), "z".into()), ("deployment.environment.name".into(), "prod".into())]
        );
    }

    #[test]
    fn a_malformed_list_is_discarded_as_a_whole() {
        for list in ["a=1,b", "a=1,=2", "a=%zz,b=1"] {
            let env = format!("OTEL_RESOURCE_ATTRIBUTES={list}\0");
            assert_eq!(OtelEnv::parse(env.as_bytes()), OtelEnv::default(), "{list}");
        }
    }

    #[test]
    fn a_variable_that_is_cut_does_not_count() {
        assert_eq!(OtelEnv::parse(b"A=1\0OTEL_SERVICE_NAME=frontend-pro"), OtelEnv::default());
        assert_eq!(OtelEnv::parse(b""), OtelEnv::default());
    }
}
