//! Dependencies flow one way: between crates, and between the modules of a crate.

use super::source::{Tree, code, modules, without_tests};
use super::{expect_none, tree};
use std::collections::BTreeSet;

/// What each crate may depend on inside the workspace; directories and package names.
const CRATES: [(&str, &[&str]); 5] = [
    ("protocol", &[]),
    ("node", &["patchmesh-protocol"]),
    ("cli", &["patchmesh-protocol", "patchmesh-node"]),
    ("simulations", &["patchmesh-protocol"]),
    ("tests", &["patchmesh-protocol", "patchmesh-node", "patchmesh-simulations", "patchmesh"]),
];

/// All that `protocol` may be built with. None of these opens a file or a socket, reads a clock or draws random numbers
/// behind our back; a new one has to show that first.
const PROTOCOL: [&str; 12] = [
    "bincode",
    "blake3",
    "data-encoding",
    "deb-version",
    "ed25519-dalek",
    "olpc-cjson",
    "roaring",
    "serde",
    "serde_json",
    "sha2",
    "thiserror",
    "toml",
];

fn dependencies(manifest: &toml::Table, development: bool) -> BTreeSet<String> {
    let mut tables = vec![manifest];
    if let Some(targets) = manifest.get("target").and_then(toml::Value::as_table) {
        tables.extend(targets.values().filter_map(toml::Value::as_table));
    }
    let mut kinds = vec!["dependencies", "build-dependencies"];
    if development {
        kinds.push("dev-dependencies");
    }
    let named = |table: &&toml::Table| -> Vec<String> {
        let of = |kind: &&str| table.get(*kind).and_then(toml::Value::as_table).cloned();
        kinds.iter().filter_map(of).flat_map(|table| table.into_iter().map(|(name, _)| name)).collect()
    };
    tables.iter().flat_map(named).collect()
}

fn manifest(tree: &Tree, directory: &str) -> toml::Table {
    let name = format!("{directory}/Cargo.toml");
    toml::from_str(&tree.files[&name]).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn crates_depend_in_one_direction() {
    let tree = tree();
    let workspace: toml::Table = toml::from_str(&tree.files["Cargo.toml"]).expect("Cargo.toml");
    let members: Vec<_> = workspace["workspace"]["members"].as_array().expect("members").iter().collect();
    let known: Vec<_> = CRATES.iter().map(|(directory, _)| *directory).collect();
    assert_eq!(members.iter().filter_map(|member| member.as_str()).collect::<Vec<_>>(), known);

    let mut problems = Vec::new();
    for (directory, allowed) in CRATES {
        for name in dependencies(&manifest(&tree, directory), true) {
            if name.starts_with("patchmesh") && !allowed.contains(&&name[..]) {
                problems.push(format!("{directory} depends on {name}"));
            }
        }
    }
    expect_none("crates depend along protocol <- node <- cli and protocol <- simulations", problems);
}

#[test]
fn protocol_is_built_with_its_allow_list() {
    let found = dependencies(&manifest(&tree(), "protocol"), false);
    let problems = found.into_iter().filter(|name| !PROTOCOL.contains(&&name[..])).collect();
    expect_none("dependencies of protocol that are not on its allow-list", problems);
}

#[test]
fn modules_import_only_from_above() {
    let tree = tree();
    let mut problems = Vec::new();
    for directory in ["protocol", "node", "simulations"] {
        problems.extend(upward(&tree, directory));
    }
    expect_none("modules import only from those listed above them in lib.rs", problems);
}

fn upward(tree: &Tree, directory: &str) -> Vec<String> {
    let source = format!("{directory}/src/");
    let (library, _) = without_tests(&code(&tree.files[&format!("{source}lib.rs")]));
    let order = modules(&library);
    let place = |name: &str| order.iter().position(|module| module == name);
    let test_files = test_files(tree, &source);
    let mut problems = Vec::new();
    for (name, text) in tree.rust().filter(|(name, _)| name.starts_with(&source)) {
        let inside = &name[source.len()..];
        let path: Vec<&str> =
            inside.trim_end_matches(".rs").split('/').filter(|part| *part != "mod").collect();
        let Some(own) = place(path[0]) else { continue };
        if test_files.iter().any(|prefix| inside.starts_with(prefix)) {
            continue;
        }
        let (code, _) = without_tests(&code(text));
        for imported in imports(&code, path.len()) {
            if place(&imported).is_some_and(|other| other > own) {
                problems.push(format!("{name} imports crate::{imported}, which stands below {}", path[0]));
            }
        }
    }
    problems
}

/// Files (`x/tests.rs`) and directories (`x/tests/`) below `source` that belong to modules marked as tests.
fn test_files(tree: &Tree, source: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (name, text) in tree.rust().filter(|(name, _)| name.starts_with(source)) {
        let inside = name[source.len()..].trim_end_matches(".rs");
        let directory = match inside.rsplit_once('/') {
            Some((above, "mod")) => format!("{above}/"),
            None if inside == "lib" || inside == "main" => String::new(),
            _ => format!("{inside}/"),
        };
        for module in without_tests(&code(text)).1 {
            found.extend([format!("{directory}{module}.rs"), format!("{directory}{module}/")]);
        }
    }
    found
}

/// First names after `crate::`, or after as many `super::` as lead from `depth` modules deep to the crate.
fn imports(code: &str, depth: usize) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for start in ["crate::".to_owned(), "super::".repeat(depth)] {
        for (at, _) in code.match_indices(&start) {
            if code[..at].ends_with("super::")
                || code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
            {
                continue;
            }
            found.extend(first_names(&code[at + start.len()..]));
        }
    }
    found.remove("super");
    found
}

/// The first names of a path or of a group of paths.
fn first_names(path: &str) -> Vec<String> {
    let name = |text: &str| {
        text.trim_start().split(|c: char| !c.is_alphanumeric() && c != '_').next().map(str::to_owned)
    };
    let Some(group) = path.trim_start().strip_prefix('{') else { return name(path).into_iter().collect() };
    let (mut names, mut depth, mut from) = (Vec::new(), 0, 0);
    for (at, next) in group.char_indices() {
        match next {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' | ',' if depth == 0 => {
                names.extend(name(&group[from..at]));
                from = at + 1;
                if next == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

#[test]
fn imports_are_found_in_every_form() {
    let code =
        "use crate::{a::{x, y}, b}; use crate::c::d; super::e::f(); super::super::g::h(); $crate::i::j!()";
    assert_eq!(imports(code, 1).into_iter().collect::<Vec<_>>(), ["a", "b", "c", "e", "i"]);
    assert!(imports(code, 2).contains("g") && !imports(code, 2).contains("e"));
}
