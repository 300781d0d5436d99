//! `patchmesh explain`: the chain of causes behind a patch's state on this device.

use super::Socket;
use crate::exit::{Exit, Outcome};
use crate::printer::Printer;
use clap::Args;
use node::control::answer;
use protocol::identifier::PatchId;
use std::fmt::Write as _;

/// Say why a patch is in its state on this device
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  patchmesh explain debian/libssl3=3.0.17-1~deb12u2")]
pub struct Explain {
    /// The patch
    patch: PatchId,
    #[command(flatten)]
    socket: Socket,
}

impl Explain {
    pub fn run(self, printer: Printer) -> Outcome {
        let explanation = self.socket.connect()?.explain(self.patch)?;
        printer.data("explanation", &explanation, render)?;
        Ok(Exit::Done)
    }
}

fn render(explanation: &answer::Explanation) -> String {
    let mut text = format!("{}: {}\n", explanation.patch, explanation.state);
    let width = explanation.chain.iter().map(|reason| reason.code.len()).max().unwrap_or_default();
    for (index, reason) in explanation.chain.iter().enumerate() {
        let _ = writeln!(text, "{:>3}. {:<width$}  {}", index + 1, reason.code, reason.sentence);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::tests::{patch, reason};

    #[test]
    fn causes_are_numbered() {
        let explanation = answer::Explanation {
            patch: patch("debian/liblzma5=5.4.1-1"),
            state: "missing".to_owned(),
            deadline: None,
            chain: vec![
                reason("applicable", "liblzma5 5.4.0 is installed, the patch brings 5.4.1-1"),
                reason("not-approved", "nobody approved the patch for this fleet"),
            ],
        };
        insta::assert_snapshot!(render(&explanation));
    }
}
