//! The digest over everything that a simulation fed to its cores and got from them, in order.

use protocol::time::Moment;
use std::fmt::{self, Write as _};

/// A running digest; with a listener it also prints what passes.
#[derive(Debug)]
pub struct Trace {
    hasher: blake3::Hasher,
    lines: Option<Vec<String>>,
}

struct Feed<'a>(&'a mut blake3::Hasher);

impl fmt::Write for Feed<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

impl Trace {
    /// An empty trace; `keep` keeps its lines too.
    pub fn new(keep: bool) -> Trace {
        Trace { hasher: blake3::Hasher::new(), lines: keep.then(Vec::new) }
    }

    /// Adds one line.
    pub fn note(&mut self, now: Moment, at: usize, what: fmt::Arguments<'_>) {
        let mut feed = Feed(&mut self.hasher);
        let written = writeln!(feed, "{} {at} {what}", now.as_micros());
        debug_assert!(written.is_ok(), "a hasher takes everything");
        if let Some(lines) = &mut self.lines {
            let seconds = now.as_micros() / 1_000;
            lines.push(format!("{}.{:03} [{at}] {what}", seconds / 1_000, seconds % 1_000));
        }
    }

    /// Adds bytes that need no text.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.hasher.update(&(bytes.len() as u64).to_le_bytes());
        self.hasher.update(bytes);
    }

    /// The digest so far, in hexadecimal digits.
    pub fn digest(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }

    /// The kept lines.
    pub fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}
