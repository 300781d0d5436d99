//! `patchmesh plan`: what this device will do, and why it leaves patches out.

use super::Socket;
use crate::exit::{Exit, Outcome};
use crate::printer::{Printer, table};
use clap::Args;
use node::control::answer;
use node::units::bytes;
use std::fmt::Write as _;

/// Show what this device will install, and why it leaves patches out
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  patchmesh plan")]
pub struct Plan {
    #[command(flatten)]
    socket: Socket,
}

impl Plan {
    pub fn run(self, printer: Printer) -> Outcome {
        let plan = self.socket.connect()?.plan()?;
        printer.data("plan", &plan, render)?;
        Ok(Exit::Done)
    }
}

fn render(plan: &answer::Plan) -> String {
    let mut text = format!("Plan {} of {}\n", plan.generation, plan.made);
    if let Some(reason) = &plan.inert {
        let _ = writeln!(text, "This device does not deploy by itself. {}", reason.sentence);
    }
    if plan.steps.is_empty() {
        text.push_str("Nothing to install.\n");
    } else {
        let rows = plan.steps.iter().enumerate().map(|(index, step)| {
            vec![(index + 1).to_string(), step.patch.to_string(), bytes(step.size), step.title.clone()]
        });
        text.push('\n');
        text.push_str(&table(&["STEP", "PATCH", "SIZE", "TITLE"], &[0, 2], &rows.collect::<Vec<_>>()));
    }
    text.push_str(&left_out(&plan.left_out));
    text
}

/// The patches that are left out, with their reasons; empty text when there are none.
pub fn left_out(left_out: &[answer::LeftOut]) -> String {
    if left_out.is_empty() {
        return String::new();
    }
    let rows = left_out
        .iter()
        .map(|left| vec![left.patch.to_string(), left.reason.code.clone(), left.reason.sentence.clone()]);
    format!("\n{}", table(&["LEFT OUT", "CODE", "WHY"], &[], &rows.collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::tests::{NOW, patch, reason};
    use protocol::identifier::ManifestDigest;

    #[test]
    fn steps_and_what_is_left_out() {
        let step = answer::Step {
            patch: patch("debian/libssl3=3.0.17-1"),
            title: "libssl3".to_owned(),
            manifest: ManifestDigest::from_bytes([1; 32]),
            size: 2_030_000,
        };
        let plan = answer::Plan {
            generation: 3,
            made: NOW,
            inert: None,
            steps: vec![step],
            left_out: vec![answer::LeftOut {
                patch: patch("debian/liblzma5=5.4.1-1"),
                reason: reason("not-approved", "nobody approved it for this fleet"),
            }],
        };
        insta::assert_snapshot!(render(&plan));
        let nothing = answer::Plan {
            steps: Vec::new(),
            left_out: Vec::new(),
            inert: Some(reason("not-assigned", "No policy is assigned to this device.")),
            ..plan
        };
        insta::assert_snapshot!(render(&nothing));
    }
}
