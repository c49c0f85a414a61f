//! The name of a service, from its command line.
//!
//! Two programs of one interpreter are two services, so an interpreter is never a
//! name as long as there is a script to take one from.

use super::interpreters::{Interpreter, Scripts, find};

/// Programs that serve an application named on their command line as
/// `module:attribute`; the application is the better name.
const APPLICATION_SERVERS: [&str; 8] =
    ["daphne", "flask", "granian", "gunicorn", "hypercorn", "uvicorn", "uwsgi", "waitress-serve"];

/// The last part of a path.
pub(crate) fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The runtime of an executable, where its name makes it certain (`process.runtime.name`).
pub(crate) fn runtime(executable: &str) -> Option<&'static str> {
    find(executable).and_then(|interpreter| interpreter.runtime)
}

/// The name for a process: the script's or module's for an interpreter, else the
/// executable's.
pub(crate) fn derive<'a>(executable: &'a str, args: &'a [String]) -> &'a str {
    let rest = args.get(1..).unwrap_or_default();
    if let Some(interpreter) = find(executable) {
        // One argument with a space in it is a title that the process wrote over
        // its arguments, as in `gunicorn: worker [shop:app]` or `puma 6.4 (…) [shop]`.
        if let ([title], true) = (args, args.first().is_some_and(|arg| arg.contains(' '))) {
            return name_in_title(title);
        }
        return script_name(interpreter, rest).unwrap_or(executable);
    }
    // Programs that are many by the name they are called.
    if matches!(executable, "busybox" | "toybox") {
        return args.first().map_or(executable, |arg| file_name(arg).trim_start_matches('-'));
    }
    if APPLICATION_SERVERS.contains(&executable) {
        return application(rest).unwrap_or(executable);
    }
    executable
}

fn name_in_title(title: &str) -> &str {
    if let Some((_, inner)) = title.split_once('[')
        && let Some((name, _)) = inner.split_once(']')
        && !name.is_empty()
    {
        return module_of(name);
    }
    let word = title.split([' ', ':']).next().unwrap_or(title);
    file_name(word)
}

/// The name of what an interpreter runs, if its options end in something that has one.
fn script_name<'a>(interpreter: &Interpreter, args: &'a [String]) -> Option<&'a str> {
    let mut args = args.iter();
    let mut script = None;
    while let Some(arg) = args.next() {
        let arg = arg.as_str();
        if arg == "--" {
            script = args.next().map(String::as_str);
            break;
        }
        if interpreter.is_verb(arg) {
            continue;
        }
        if !arg.starts_with('-') || arg == "-" {
            script = Some(arg).filter(|&arg| arg != "-");
            break;
        }
        match interpreter.option(arg) {
            Scripts::None => return None,
            Scripts::Module(joined) => {
                let module = match joined {
                    Some(module) => module,
                    None => args.next()?.as_str(),
                };
                return Some(module_name(module, args.as_slice()));
            }
            Scripts::File => {
                script = args.next().map(String::as_str);
                break;
            }
            Scripts::SkipNext => {
                args.next();
            }
            Scripts::Option => {}
        }
    }
    let script = script?;
    if interpreter.names_class {
        // A class keeps its package; an archive, given by `-jar`, loses its path.
        return Some(script.strip_suffix(".jar").map_or(script, file_name));
    }
    Some(file_of_script(script, interpreter.suffixes, args.as_slice()))
        .filter(|name| !name.is_empty())
}

fn module_name<'a>(module: &'a str, args: &'a [String]) -> &'a str {
    // Java: a module may be followed by its main class.
    let module = module.split('/').next().unwrap_or(module);
    let module = module.strip_suffix(".__main__").unwrap_or(module);
    if APPLICATION_SERVERS.contains(&module) { application(args).unwrap_or(module) } else { module }
}

fn file_of_script<'a>(script: &'a str, suffixes: &[&str], args: &'a [String]) -> &'a str {
    let (directory, file) = script.rsplit_once('/').unwrap_or(("", script));
    let stem = suffixes.iter().find_map(|suffix| file.strip_suffix(suffix)).unwrap_or(file);
    if APPLICATION_SERVERS.contains(&stem) {
        return application(args).unwrap_or(stem);
    }
    // These names say nothing; the directory's does.
    if matches!(stem, "__main__" | "index") {
        let parent = file_name(directory);
        if !matches!(parent, "" | "." | ".." | "bin" | "dist" | "build" | "src" | "lib") {
            return parent;
        }
    }
    stem
}

/// The application among the arguments of an application server: the first of the
/// form `package.module:attribute`, or a last one `package.module` as WSGI
/// and ASGI projects have it. Values of options, such as `0.0.0.0:80`, are not of
/// that form.
fn application(args: &[String]) -> Option<&str> {
    let mut positional = args.iter().map(String::as_str).filter(|arg| !arg.starts_with('-'));
    positional
        .clone()
        .find(|arg| {
            arg.split_once(':')
                .is_some_and(|(module, rest)| is_dotted_name(module) && is_attribute(rest))
        })
        .or_else(|| positional.next_back().filter(|arg| arg.contains('.') && is_dotted_name(arg)))
        .map(module_of)
}

/// `shop.wsgi:app` and `shop.main:create_app()` are both of `shop`'s module.
fn module_of(application: &str) -> &str {
    let module = application.split(':').next().unwrap_or(application);
    [".wsgi", ".asgi"].iter().find_map(|suffix| module.strip_suffix(suffix)).unwrap_or(module)
}

fn is_dotted_name(text: &str) -> bool {
    text.split('.').all(|part| {
        part.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

fn is_attribute(text: &str) -> bool {
    is_dotted_name(text.split('(').next().unwrap_or_default())
}

#[cfg(test)]
#[path = "service_name_tests.rs"]
mod tests;
