//! The figures of the demo as tables, for people.

use super::figures::{Carried, Figures};
use crate::printer::{pairs, table};
use node::units::bytes;
use std::fmt::Write as _;

/// All tables, one below the other.
pub fn render(figures: &Figures) -> String {
    let mut text = String::from("\n");
    text.push_str(&patches(figures));
    let _ = write!(text, "\n{}", contents(figures));
    if !figures.refusals.is_empty() {
        let _ = write!(text, "\n{}", refusals(figures));
    }
    let _ = write!(text, "\n{}", wan(figures));
    text
}

/// Per patch, what each device did.
fn patches(figures: &Figures) -> String {
    let mut headings = vec!["PATCH"];
    headings.extend(figures.devices.iter().map(|device| device.host.as_str()));
    let names = figures.devices.first().map(|device| device.patches.keys()).into_iter().flatten();
    let rows = names.map(|patch| {
        let states =
            figures.devices.iter().map(|device| device.patches.get(patch).cloned().unwrap_or_default());
        std::iter::once(patch.to_string()).chain(states).collect()
    });
    table(&headings, &[], &rows.collect::<Vec<_>>())
}

/// What crossed WAN and LAN, artifacts first, evidence below.
fn contents(figures: &Figures) -> String {
    let row = |carried: &Carried, kind: &str| {
        vec![
            carried.name.clone(),
            kind.to_owned(),
            bytes(carried.size),
            bytes(carried.wan_bytes),
            bytes(carried.lan_bytes),
            format!("{:.2}", carried.wan_amplification),
            format!("{}/{}", carried.verified_devices, figures.devices.len()),
        ]
    };
    let mut rows: Vec<Vec<String>> =
        figures.artifacts.iter().map(|artifact| row(artifact, "artifact")).collect();
    let sum = |of: fn(&Carried) -> u64| bytes(figures.artifacts.iter().map(of).sum());
    rows.push(vec![
        "all artifacts".to_owned(),
        String::new(),
        sum(|one| one.size),
        sum(|one| one.wan_bytes),
        sum(|one| one.lan_bytes),
        format!("{:.2}", figures.wan_amplification),
        String::new(),
    ]);
    rows.extend(figures.evidence.iter().map(|evidence| row(evidence, "evidence")));
    table(&["CONTENT", "KIND", "SIZE", "WAN", "LAN", "WAN ÷ SIZE", "VERIFIED"], &[2, 3, 4, 5, 6], &rows)
}

fn refusals(figures: &Figures) -> String {
    let rows = figures.refusals.iter().map(|refused| {
        vec![
            refused.subject.clone(),
            refused.code.clone(),
            format!("{}/{}", refused.devices, figures.devices.len()),
            refused.sentence.clone(),
        ]
    });
    table(&["REFUSED", "CODE", "DEVICES", "WHY"], &[2], &rows.collect::<Vec<_>>())
}

fn wan(figures: &Figures) -> String {
    let wan = &figures.wan;
    pairs(&[
        ("WAN, counted on the line", format!("{} down, {} up", bytes(wan.down_bytes), bytes(wan.up_bytes))),
        ("  of that, joining", bytes(wan.joining_bytes)),
        (
            "WAN, reported by the nodes",
            format!("{} down, {} up", bytes(wan.nodes_received_bytes), bytes(wan.nodes_sent_bytes)),
        ),
        ("  of that, signed metadata", bytes(wan.metadata_bytes)),
        ("  of that, reports", bytes(wan.reports_bytes)),
        ("The two counts differ by", format!("{:.1} %", wan.difference_percent)),
        ("Devices at the aggregator", figures.aggregator_devices.to_string()),
        ("Time", format!("{:.1} s", figures.seconds)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::figures::tests::example;

    #[test]
    fn the_tables_are_read_at_a_glance() {
        insta::assert_snapshot!(render(&example()));
    }
}
