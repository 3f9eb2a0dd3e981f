//! Programs on a terminal: `script` gives each a pseudo-terminal of its own.

use std::process::Command;

/// `command` on a new terminal, as the leader of its session. What it writes to the terminal is
/// the standard output of the result, and so is its exit code.
///
/// Needs `script` of util-linux. Lines of a terminal end with CR and LF.
pub fn on_terminal(command: &Command) -> Command {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted: Vec<_> = words.map(|word| quoted(&word.to_string_lossy())).collect();
    let mut script = Command::new("script");
    let line = format!("exec {}", quoted.join(" "));
    // What is written goes out at once, and into no file.
    script.args(["--quiet", "--flush", "--return", "--command", &line, "/dev/null"]);
    script.env("SHELL", "/bin/sh");
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    script
}

/// One word for sh(1).
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_stay_words() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
