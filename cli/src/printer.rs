//! The one way out: data to standard output as text or JSON, messages to standard error.

use crate::exit::{Exit, Failure};
use clap::ValueEnum;
use protocol::text;
use serde::Serialize;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};

/// Version of every JSON object that the command line prints.
pub const SCHEMA: u32 = 1;

/// In which form data goes to standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// One JSON object with a schema version.
    Json,
}

/// Prints data and messages.
#[derive(Clone, Copy, Debug)]
pub struct Printer {
    output: Output,
    colour: bool,
    live: bool,
}

/// A colour by what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// It went well.
    Good,
    /// It went wrong.
    Bad,
    /// Of less weight.
    Faint,
}

impl Printer {
    /// A printer for this process's streams: colours and progress on a terminal that can show them (`TERM` is not `dumb`), and no
    /// colours with `NO_COLOR` set.
    pub fn new(output: Output) -> Printer {
        let variable = |name: &str| std::env::var_os(name).unwrap_or_default();
        Printer::on(io::stderr().is_terminal(), &variable("TERM"), &variable("NO_COLOR"), output)
    }

    fn on(terminal: bool, kind: &OsStr, no_colour: &OsStr, output: Output) -> Printer {
        let live = terminal && kind != "dumb";
        Printer { output, colour: live && no_colour.is_empty(), live: live && output == Output::Text }
    }

    /// The form of the data.
    pub fn output(&self) -> Output {
        self.output
    }

    /// Whether somebody watches: only then are progress bars drawn.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Does something that can take longer than a second, with a spinner where somebody watches.
    pub fn wait<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        if !self.live {
            return work();
        }
        let spinner = indicatif::ProgressBar::new_spinner().with_message(what.to_owned());
        spinner.enable_steady_tick(std::time::Duration::from_millis(100));
        let done = work();
        spinner.finish_and_clear();
        done
    }

    /// Prints `data` under `name`, or what `text` makes of it.
    ///
    /// # Errors
    /// Standard output does not take it, and nobody closed it; so with all that print data.
    pub fn data<T: Serialize>(
        &self,
        name: &str,
        data: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        match self.output {
            Output::Text => write_out(&text(data)),
            Output::Json => {
                let object = serde_json::json!({ "schema": SCHEMA, name: data });
                write_out(&format!("{object:#}\n"))
            }
        }
    }

    /// Prints text that is the data.
    pub fn text(&self, text: &str) -> Result<(), Failure> {
        write_out(text)
    }

    /// Prints an object that is the whole answer; its fields stand beside the schema version.
    pub fn object(&self, mut object: serde_json::Map<String, serde_json::Value>) -> Result<(), Failure> {
        object.insert("schema".to_owned(), SCHEMA.into());
        write_out(&format!("{:#}\n", serde_json::Value::Object(object)))
    }

    /// Says something to the person at the terminal.
    pub fn message(&self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Says why a command did not do its work, and what to do about it.
    pub fn failure(&self, failure: &Failure) {
        self.message(&self.render_failure(failure));
    }

    fn render_failure(&self, failure: &Failure) -> String {
        if self.output == Output::Json {
            let error = serde_json::json!({
                "exit": failure.exit as u8,
                "message": failure.message,
                "causes": failure.causes,
                "hint": failure.hint,
            });
            return serde_json::json!({ "schema": SCHEMA, "error": error }).to_string();
        }
        let mut text = format!("{} {}", self.paint(Tone::Bad, "error:"), failure.message);
        for cause in &failure.causes {
            let _ = write!(text, "\n  because: {cause}");
        }
        if let Some(hint) = &failure.hint {
            let _ = write!(text, "\n{} {hint}", self.paint(Tone::Faint, "hint:"));
        }
        text
    }

    /// Colours `text`, where colours are wanted.
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => 32,
            Tone::Bad => 31,
            Tone::Faint => 2,
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// A reader that has seen enough (`patchmesh patch list | head`) closes the pipe: nothing is wrong then.
fn write_out(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(unwritten(&error)),
        _ => Ok(()),
    }
}

/// The work is done by then: whoever repeats the command should know.
fn unwritten(error: &io::Error) -> Failure {
    Failure {
        exit: Exit::Failed,
        message: "the command did its work, and its answer could not be written to standard output".to_owned(),
        causes: vec![error.to_string()],
        hint: Some("send the output to a place that can be written, and look at what is there before you repeat a change".to_owned()),
    }
}

/// What others wrote, as it may stand on a terminal: a letter that would steer it is replaced by the sign for one that cannot
/// be shown.
fn shown(text: &str) -> String {
    text.chars()
        .map(|letter| if text::steers(letter) { char::REPLACEMENT_CHARACTER } else { letter })
        .collect()
}

/// A table with a heading, its columns aligned, those named in `numbers` to the right. Ends with a line break.
pub fn table(headings: &[&str], numbers: &[usize], rows: &[Vec<String>]) -> String {
    let headings: Vec<String> = headings.iter().map(|&heading| heading.to_owned()).collect();
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| shown(cell)).collect()).collect();
    let lines = || std::iter::once(&headings).chain(&rows);
    let width = |column: usize| {
        lines().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    lines().fold(String::new(), |mut text, line| {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if numbers.contains(&column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
        text
    })
}

/// Lines of names and values, the values aligned. Ends with a line break.
pub fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    pairs.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{}", format!("{name:<width$}  {}", shown(value)).trim_end());
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_name_cause_and_hint() {
        let printer = Printer { output: Output::Text, colour: false, live: false };
        let failure = Failure {
            exit: Exit::Failed,
            message: "cannot read the key".to_owned(),
            causes: vec!["permission denied".to_owned()],
            hint: Some("run it as the owner".to_owned()),
        };
        insta::assert_snapshot!(printer.render_failure(&failure));
        let json = Printer { output: Output::Json, ..printer }.render_failure(&failure);
        insta::assert_snapshot!(json);
    }

    #[test]
    fn a_terminal_that_cannot_show_it_gets_no_colour() {
        let on = |terminal, kind: &str, no_colour: &str| {
            let printer = Printer::on(terminal, kind.as_ref(), no_colour.as_ref(), Output::Text);
            (printer.colour, printer.live)
        };
        assert_eq!(on(true, "xterm-256color", ""), (true, true));
        assert_eq!(on(true, "xterm-256color", "1"), (false, true));
        assert_eq!(on(true, "dumb", ""), (false, false));
        assert_eq!(on(false, "xterm-256color", ""), (false, false));
    }

    #[test]
    fn what_others_wrote_steers_no_terminal() {
        let evil = "12\u{1b}[2J\r\n\u{202e}gpj";
        let row = [evil.to_owned(), "x".to_owned()].to_vec();
        for text in [table(&["RELEASE", "NAME"], &[], &[row]), pairs(&[("release", evil.to_owned())])] {
            assert!(text.lines().all(text::is_plain), "{text:?}");
            assert!(text.contains("12\u{fffd}[2J\u{fffd}\u{fffd}\u{fffd}gpj"), "{text:?}");
        }
    }

    #[test]
    fn tables_are_aligned() {
        let rows = vec![
            vec!["libssl3".to_owned(), "2".to_owned(), "missing".to_owned()],
            vec!["linux-libc-dev".to_owned(), "12345".to_owned(), "installed".to_owned()],
        ];
        insta::assert_snapshot!(table(&["PATCH", "BYTES", "STATE"], &[1], &rows));
    }
}
