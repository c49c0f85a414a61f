//! Programs that run other programs, and which of their options take a value.

/// What an option of an interpreter means for the search of its script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scripts<'a> {
    /// The option stands alone.
    Option,
    /// The next argument is the option's value.
    SkipNext,
    /// Code follows: there is no script.
    None,
    /// A module's name follows, or is joined to the option.
    Module(Option<&'a str>),
    /// The script follows.
    File,
}

/// What the value of an option is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// A module to run.
    Module,
    /// Code to run.
    Code,
    /// A script to run.
    File,
    /// Nothing that is run.
    Other,
}

/// An interpreter's command line.
#[derive(Debug)]
pub(crate) struct Interpreter {
    /// File names, without a version at the end (`python` for `python3.11`).
    names: &'static [&'static str],
    /// `process.runtime.name`, if the name makes it certain.
    pub(crate) runtime: Option<&'static str>,
    /// Letters that take a value; they may be joined with others and with the value.
    short: &'static [(u8, Value)],
    /// Options that take a value, matched as a whole.
    long: &'static [(&'static str, Value)],
    /// What is taken off the end of a script's name.
    pub(crate) suffixes: &'static [&'static str],
    /// The first argument is a class, not a file.
    pub(crate) names_class: bool,
    /// Words between the interpreter and the script.
    verbs: &'static [&'static str],
}

const BASE: Interpreter = Interpreter {
    names: &[],
    runtime: None,
    short: &[],
    long: &[],
    suffixes: &[],
    names_class: false,
    verbs: &[],
};

/// From the manual pages of each.
const INTERPRETERS: &[Interpreter] = &[
    Interpreter {
        names: &["python"],
        runtime: Some("cpython"),
        short: PYTHON_SHORT,
        long: PYTHON_LONG,
        suffixes: &[".py", ".pyc", ".pyz"],
        ..BASE
    },
    Interpreter {
        names: &["pypy"],
        runtime: Some("pypy"),
        short: PYTHON_SHORT,
        long: PYTHON_LONG,
        suffixes: &[".py", ".pyc", ".pyz"],
        ..BASE
    },
    Interpreter {
        names: &["node", "nodejs"],
        runtime: Some("nodejs"),
        long: &[
            ("-r", Value::Other),
            ("--require", Value::Other),
            ("--import", Value::Other),
            ("--loader", Value::Other),
            ("--experimental-loader", Value::Other),
            ("-C", Value::Other),
            ("--conditions", Value::Other),
            ("--title", Value::Other),
            ("--icu-data-dir", Value::Other),
            ("--openssl-config", Value::Other),
            ("-e", Value::Code),
            ("--eval", Value::Code),
            ("-p", Value::Code),
            ("--print", Value::Code),
            ("-pe", Value::Code),
        ],
        suffixes: JAVASCRIPT,
        ..BASE
    },
    Interpreter {
        names: &["deno", "bun"],
        long: &[
            ("-r", Value::Other),
            ("--preload", Value::Other),
            ("-c", Value::Other),
            ("--config", Value::Other),
            ("--import-map", Value::Other),
            ("--cwd", Value::Other),
            ("-e", Value::Code),
            ("--eval", Value::Code),
        ],
        suffixes: JAVASCRIPT,
        verbs: &["run", "serve"],
        ..BASE
    },
    Interpreter {
        names: &["java"],
        long: &[
            ("-cp", Value::Other),
            ("-classpath", Value::Other),
            ("--class-path", Value::Other),
            ("-p", Value::Other),
            ("--module-path", Value::Other),
            ("--upgrade-module-path", Value::Other),
            ("--add-modules", Value::Other),
            ("--add-opens", Value::Other),
            ("--add-exports", Value::Other),
            ("--add-reads", Value::Other),
            ("--patch-module", Value::Other),
            ("--limit-modules", Value::Other),
            ("--enable-native-access", Value::Other),
            ("-m", Value::Module),
            ("--module", Value::Module),
            ("-jar", Value::File),
        ],
        names_class: true,
        ..BASE
    },
    Interpreter {
        names: &["ruby", "jruby", "truffleruby"],
        short: &[
            (b'I', Value::Other),
            (b'r', Value::Other),
            (b'C', Value::Other),
            (b'E', Value::Other),
            (b'e', Value::Code),
        ],
        suffixes: &[".rb", ".ru"],
        ..BASE
    },
    Interpreter {
        names: &["perl"],
        short: &[(b'I', Value::Other), (b'e', Value::Code), (b'E', Value::Code)],
        suffixes: &[".pl", ".psgi"],
        ..BASE
    },
    Interpreter {
        names: &["php", "php-cgi"],
        long: &[
            ("-c", Value::Other),
            ("-d", Value::Other),
            ("-S", Value::Other),
            ("-t", Value::Other),
            ("-z", Value::Other),
            ("-f", Value::File),
            ("--file", Value::File),
            ("-r", Value::Code),
            ("--run", Value::Code),
            ("-B", Value::Code),
            ("-R", Value::Code),
            ("-E", Value::Code),
        ],
        suffixes: &[".php"],
        ..BASE
    },
    Interpreter {
        names: &["sh", "bash", "dash", "ash", "zsh", "ksh"],
        short: &[(b'c', Value::Code), (b'o', Value::Other), (b'O', Value::Other)],
        long: &[("--rcfile", Value::Other), ("--init-file", Value::Other)],
        suffixes: &[".sh"],
        ..BASE
    },
    Interpreter {
        names: &["dotnet"],
        runtime: Some("dotnet"),
        long: &[
            ("--runtimeconfig", Value::Other),
            ("--depsfile", Value::Other),
            ("--fx-version", Value::Other),
            ("--roll-forward", Value::Other),
            ("--additionalprobingpath", Value::Other),
        ],
        suffixes: &[".dll"],
        verbs: &["exec"],
        ..BASE
    },
];

const PYTHON_SHORT: &[(u8, Value)] =
    &[(b'm', Value::Module), (b'c', Value::Code), (b'W', Value::Other), (b'X', Value::Other)];
const PYTHON_LONG: &[(&str, Value)] = &[("--check-hash-based-pycs", Value::Other)];
const JAVASCRIPT: &[&str] = &[".js", ".mjs", ".cjs", ".ts", ".mts", ".cts", ".jsx", ".tsx"];

/// The interpreter with this file name, whatever version is at its end.
pub(crate) fn find(executable: &str) -> Option<&'static Interpreter> {
    let is_version = |c: char| c.is_ascii_digit() || c == '.' || c == '-';
    let name = executable.trim_end_matches(is_version);
    INTERPRETERS
        .iter()
        .find(|interpreter| interpreter.names.iter().any(|n| *n == name || *n == executable))
}

impl Interpreter {
    /// Whether a word is one of the interpreter's commands, not its script.
    pub(crate) fn is_verb(&self, word: &str) -> bool {
        self.verbs.contains(&word)
    }

    /// What an argument that begins with a hyphen means.
    pub(crate) fn option<'a>(&self, arg: &'a str) -> Scripts<'a> {
        if let Some((_, value)) = self.long.iter().find(|(name, _)| *name == arg) {
            return meaning_of(*value, None);
        }
        if self.short.is_empty() || arg.starts_with("--") {
            return Scripts::Option;
        }
        // Letters up to the first that takes a value; the value may be joined to it.
        for (at, letter) in arg.bytes().enumerate().skip(1) {
            if let Some((_, value)) = self.short.iter().find(|(short, _)| *short == letter) {
                return meaning_of(*value, arg.get(at + 1..).filter(|text| !text.is_empty()));
            }
        }
        Scripts::Option
    }
}

fn meaning_of(value: Value, joined: Option<&str>) -> Scripts<'_> {
    match (value, joined) {
        (Value::Module, joined) => Scripts::Module(joined),
        (Value::Code, _) => Scripts::None,
        (Value::File, _) => Scripts::File,
        (Value::Other, None) => Scripts::SkipNext,
        (Value::Other, Some(_)) => Scripts::Option,
    }
}
