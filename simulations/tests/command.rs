//! What `simulate` prints, for people and for programs.

use serde_json::Value;
use std::process::Command;

fn simulate(arguments: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_simulate"));
    let output = command.args(arguments.split(' ')).output().expect("simulate runs");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_sweep_prints_the_same_figures_as_text_and_as_one_document() {
    let text = simulate("sweep --seeds 3");
    let document: Value =
        serde_json::from_str(&simulate("sweep --seeds 3 --output json")).expect("one document");
    let digest = document["digest"].as_str().expect("a digest");
    let last = format!("{} seeds, 0 failed, digest {}", document["seeds"], &digest[..16]);
    assert_eq!(text.lines().last(), Some(last.as_str()));
    assert_eq!(document["failures"], Value::Array(Vec::new()));
    let figures = |name: &str| {
        let figures = document[name].as_object().expect("figures by name");
        figures
            .iter()
            .map(|(name, figure)| (name.clone(), figure.as_u64().expect("a number")))
            .collect::<Vec<_>>()
    };
    let fired = figures("fired").into_iter().map(|(option, count)| format!("{count:>10}  {option}"));
    let bytes = figures("duplicate_bytes_by_cause").into_iter();
    let bytes = bytes.map(|(cause, bytes)| format!("{bytes:>10}  bytes over the WAN again: {cause}"));
    let lines: Vec<String> = fired.chain(bytes).chain([last]).collect();
    assert_eq!(text.lines().collect::<Vec<_>>(), lines);
}
