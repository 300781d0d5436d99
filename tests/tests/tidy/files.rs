//! Every file by itself: size, name, first line, reachability, and what must not stand in it.

use super::source::{Tree, code, modules};
use super::{expect_none, tree};
use std::collections::BTreeSet;

/// Longest Rust file without a reason, in lines.
const LINES: usize = 800;

/// Longer files, each with its reason.
const LONG: [(&str, &str); 0] = [];

/// Names that say nothing about what is inside.
const BANNED: [&str; 8] = ["util", "utils", "common", "helper", "helpers", "types", "misc", "manager"];

#[test]
fn long_files_have_a_reason() {
    let tree = tree();
    let mut problems = Vec::new();
    for (name, text) in tree.rust() {
        let lines = text.lines().count();
        match (lines > LINES, LONG.iter().any(|(listed, _)| *listed == name)) {
            (true, false) => {
                problems.push(format!("{name} has {lines} lines: split it, or list it with a reason"))
            }
            (false, true) => problems.push(format!("{name} has only {lines} lines: take it off the list")),
            _ => {}
        }
    }
    expect_none("files have at most 800 lines", problems);
}

#[test]
fn modules_begin_with_a_sentence_and_have_a_telling_name() {
    let tree = tree();
    let mut problems = Vec::new();
    for (name, text) in tree.rust() {
        if !text.starts_with("//! ") {
            problems.push(format!("{name} does not begin with //! and what it is for"));
        }
        let parts = name.trim_end_matches(".rs").split('/');
        problems.extend(parts.filter(|part| BANNED.contains(part)).map(|part| format!("{name}: {part}")));
    }
    expect_none("modules say what they are", problems);
}

#[test]
fn tests_are_ignored_only_with_a_reason() {
    let bare = ["#[", "ignore]"].concat();
    let tree = tree();
    let problems = tree.rust().filter(|(_, text)| text.contains(&bare)).map(|(name, _)| name.to_owned());
    expect_none("an ignored test gives its reason: #[ignore = \"…\"]", problems.collect());
}

#[test]
fn every_rust_file_is_compiled() {
    let tree = tree();
    let mut reached = BTreeSet::new();
    for (name, _) in tree.rust() {
        let parts: Vec<&str> = name.split('/').collect();
        let is_root = match parts[..] {
            // The one crate whose tests are one binary.
            ["tests", "tests", file] => file == "main.rs",
            [_, "build.rs"]
            | [_, "src", "lib.rs" | "main.rs"]
            | [_, "src", "bin", _]
            | [_, "src", "bin", _, "main.rs"] => true,
            [_, "tests", _, "main.rs"] => true,
            [_, "tests" | "benches" | "examples", _] | [.., "fuzz_targets", _] => true,
            _ => false,
        };
        if is_root {
            reach(&tree, name, true, &mut reached);
        }
    }
    let problems = tree.rust().filter(|(name, _)| !reached.contains(*name)).map(|(name, _)| name.to_owned());
    expect_none("Rust files that no module declares", problems.collect());
}

fn reach(tree: &Tree, name: &str, is_root: bool, reached: &mut BTreeSet<String>) {
    let Some(text) = tree.files.get(name) else { return };
    if !reached.insert(name.to_owned()) {
        return;
    }
    let (directory, file) = name.rsplit_once('/').unwrap_or(("", name));
    let below = match is_root || file == "mod.rs" {
        true => directory.to_owned(),
        false => name.trim_end_matches(".rs").to_owned(),
    };
    for module in modules(&code(text)) {
        for file in [format!("{below}/{module}.rs"), format!("{below}/{module}/mod.rs")] {
            reach(tree, &file, false, reached);
        }
    }
}

/// Files in which such a name has to stand, each with its reason.
const HOSTS_ALLOWED: [(&str, &str); 1] = [("Cargo.lock", "cargo names the source of every package in it")];

#[test]
fn no_registry_and_no_home_directory_is_named() {
    // In parts, so that this file does not name them either.
    let hosts = [
        ["crates", ".io"],
        ["pypi", ".org"],
        ["pythonhosted", ".org"],
        ["npmjs", ".org"],
        ["deb.debian", ".org"],
        ["security.debian", ".org"],
        ["proxy.golang", ".org"],
    ]
    .map(|parts| parts.concat());
    let homes = [["/", "root/"], ["/", "home/"], ["/", "work/"], ["/", "Users/"]].map(|parts| parts.concat());
    let tree = tree();
    let mut problems = Vec::new();
    for (name, text) in &tree.files {
        if HOSTS_ALLOWED.iter().any(|(allowed, _)| allowed == name) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let named = hosts.iter().any(|host| line.contains(host.as_str()));
            if named || homes.iter().any(|home| begins_path(line, home)) {
                problems.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    expect_none("no registry's host and no path of one machine", problems);
}

/// Whether `path` stands in `line` as the beginning of a path and not in the middle of one.
fn begins_path(line: &str, path: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || "_-.}/>*".contains(c);
    line.match_indices(path).any(|(at, _)| !line[..at].ends_with(inside))
}
