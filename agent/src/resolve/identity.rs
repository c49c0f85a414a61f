//! Who a process is, as far as that survives the process itself.

use super::otel_env::OtelEnv;
use super::service_name;

/// The longest service name that is made up from a command line, in bytes.
const MAX_NAME: usize = 255;

/// Name and attributes of a program that runs. A forked child shares its parent's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The service's name; `None` if there is nothing to take one from.
    pub(crate) service_name: Option<Box<str>>,
    /// What the process was given in `OTEL_RESOURCE_ATTRIBUTES`.
    pub(crate) attributes: Vec<(Box<str>, Box<str>)>,
    /// The file name of the executable.
    pub(crate) executable_name: Option<Box<str>>,
    /// The path of the executable, in the process's mount namespace.
    pub(crate) executable_path: Option<Box<str>>,
    /// The runtime, where the executable's name makes it certain.
    pub(crate) runtime: Option<&'static str>,
}

impl Identity {
    /// Reads NUL-separated arguments and environment. `comm` is the kernel's name
    /// of the command (15 bytes), used where the path is not known.
    pub(crate) fn new(path: Option<String>, comm: &str, args: &[u8], environ: &[u8]) -> Self {
        let args: Vec<_> = args
            .split(|&byte| byte == 0)
            .map(|arg| String::from_utf8_lossy(arg).into_owned())
            .collect();
        // The text after the last NUL is empty, unless the arguments were cut or
        // the process wrote a title of its own over them.
        let args = match args.split_last() {
            Some((last, whole)) if last.is_empty() => whole,
            _ => &args[..],
        };
        let executable = path
            .as_deref()
            .map(service_name::file_name)
            .or_else(|| args.first().map(|arg| executable_of_title(arg)))
            .filter(|name| !name.is_empty())
            .unwrap_or(comm);
        let env = OtelEnv::parse(environ);
        let service_name = env.service_name.or_else(|| {
            let name = service_name::derive(executable, args);
            (!name.is_empty()).then(|| bounded(name).into())
        });
        Self {
            service_name,
            attributes: env.attributes,
            executable_name: (!executable.is_empty()).then(|| executable.into()),
            runtime: service_name::runtime(executable),
            executable_path: path.map(String::into_boxed_str),
        }
    }

    /// Bytes that it takes, about.
    pub(crate) fn weight(&self) -> usize {
        let texts = [&self.service_name, &self.executable_name, &self.executable_path];
        let texts = texts.into_iter().flatten().map(|text| text.len());
        let attributes = self.attributes.iter();
        size_of::<Self>()
            + texts.sum::<usize>()
            + attributes.map(|pair| size_of_val(pair) + pair.0.len() + pair.1.len()).sum::<usize>()
    }
}

/// The command of a first argument that may be a title, as in `nginx: worker process`.
fn executable_of_title(arg: &str) -> &str {
    let command = arg.split_once(": ").map_or(arg, |(command, _)| command);
    service_name::file_name(command)
}

fn bounded(name: &str) -> &str {
    let end =
        name.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= MAX_NAME);
    &name[..end.last().unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(path: Option<&str>, args: &[u8], environ: &[u8]) -> Option<Box<str>> {
        Identity::new(path.map(str::to_owned), "comm", args, environ).service_name
    }

    #[test]
    fn the_environment_wins_over_the_command_line() {
        let environ = b"OTEL_SERVICE_NAME=cart\0";
        assert_eq!(
            name(Some("/usr/bin/python3"), b"python3\0app.py\0", environ).as_deref(),
            Some("cart")
        );
    }

    #[test]
    fn a_rewritten_title_gives_the_command_before_its_colon() {
        assert_eq!(name(None, b"nginx: worker process\0", b"").as_deref(), Some("nginx"));
        assert_eq!(
            name(Some("/usr/sbin/nginx"), b"nginx: worker process\0", b"").as_deref(),
            Some("nginx")
        );
    }

    #[test]
    fn a_process_of_which_only_the_kernels_name_is_known_is_called_by_it() {
        assert_eq!(name(None, b"", b"").as_deref(), Some("comm"));
        let nothing = Identity::new(None, "", b"", b"");
        assert_eq!((nothing.service_name, nothing.executable_name), (None, None));
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        assert_eq!(bounded(&"é".repeat(200)).len(), 254);
        assert_eq!(bounded("short"), "short");
    }

    #[test]
    fn a_cut_last_argument_still_counts() {
        assert_eq!(
            name(Some("/usr/bin/python3"), b"python3\0/srv/shop.py", b"").as_deref(),
            Some("shop")
        );
    }
}
