//! What can go wrong in the hands of an administrator: each failure names cause and remedy, has the exit code of its kind, and
//! leaves everything as it was.

mod administration;
mod at_once;
mod content;
mod doctor;
mod files;
mod joining;
mod named_commands;
mod starting;
mod surroundings;

use patchmesh_tests::typed::{self, Background, Said};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One thing that goes wrong.
struct Case {
    what: &'static str,
    command: Command,
    code: i32,
    says: Vec<&'static str>,
}

fn case<const N: usize>(what: &'static str, command: Command, code: i32, says: [&'static str; N]) -> Case {
    Case { what, command, code, says: says.to_vec() }
}

/// Runs the case; nothing below `directory` may have changed by it.
fn check(case: Case, directory: &Path) {
    let before = tree(directory);
    let Said { code, out, err } = typed::run(case.command);
    let what = case.what;
    assert_eq!(code, Some(case.code), "{what}: {out}{err}");
    assert!(err.contains("error: "), "{what}: {err}");
    assert!(!err.contains("panic") && !err.contains("mistake of its own"), "{what}: {err}");
    for says in case.says {
        assert!(err.contains(says), "{what} should say {says:?}: {err}");
    }
    let after = tree(directory);
    let left: Vec<_> = before.symmetric_difference(&after).collect();
    assert!(left.is_empty(), "{what} left something half made, or took something away: {left:?}");
}

/// Files below a directory, but not those within a database: it rewrites its own at every start.
fn tree(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in std::fs::read_dir(&next).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.is_symlink() && !path.ends_with("state/store") {
                waiting.push(path.clone());
            }
            found.insert(path);
        }
    }
    found
}

/// A fleet with its headquarters, on ports of its own.
struct Place {
    directory: tempfile::TempDir,
    members: u16,
    enrolment: u16,
    http: u16,
}

impl Place {
    fn new() -> Place {
        let directory = tempfile::tempdir().expect("directory");
        let port = || typed::free_port().expect("port");
        let place = Place { directory, members: port(), enrolment: port(), http: port() };
        let said = typed::run(place.init("fleet", "headquarters"));
        assert_eq!(said.code, Some(0), "{}", said.err);
        place
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = typed::command(self.path());
        command.args(arguments);
        command
    }

    fn init(&self, fleet: &str, headquarters: &str) -> Command {
        let (members, enrolment) = (multiaddress(self.members), multiaddress(self.enrolment));
        let http = format!("127.0.0.1:{}", self.http);
        let mut command = self.command(&["fleet", "init", fleet, "--headquarters", headquarters]);
        command.args(["--site", "utrecht", "--http", &http]);
        command.args(["--address", &members, "--listen", &members]);
        command.args(["--enrolment-address", &enrolment, "--enrolment-listen", &enrolment]);
        command
    }

    /// Headquarters with a relative configuration, from its own directory.
    fn run(&self, more: &[&str]) -> Command {
        let mut command = typed::command(&self.path().join("headquarters"));
        command.args(["node", "run", "--config", "patchmesh.toml"]).args(more);
        command
    }

    fn start(&self) -> Background {
        self.background(self.run(&[]), "headquarters")
    }

    /// Starts a node and waits until it answers.
    fn background(&self, command: Command, name: &str) -> Background {
        let mut node = Background::start(command, &self.path().join(format!("{name}.log")));
        let socket = format!("{name}/control.socket");
        let ready = typed::wait_for(|| {
            let said = typed::run(self.command(&["status", "--socket", &socket]));
            (said.code == Some(0) || !node.runs()).then_some(said.code)
        });
        assert_eq!(ready, Some(Some(0)), "{name}: {}", node.said());
        node
    }

    /// An activation key.
    fn token(&self, uses: &str) -> String {
        let socket = "headquarters/control.socket";
        let said = typed::run(
            self.command(&["token", "create", "--site", "utrecht", "--uses", uses, "--socket", socket]),
        );
        assert_eq!(said.code, Some(0), "{}", said.err);
        said.out.trim().to_owned()
    }

    /// The directory of a device that has not joined: a root directory and a configuration.
    fn device(&self, name: &str) {
        let root = self.path().join(name).join("root");
        let files = [
            ("etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n"),
            ("var/lib/dpkg/status", ""),
            ("var/lib/dpkg/arch", "amd64\n"),
        ];
        for (file, text) in files {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().expect("a directory")).expect("make");
            std::fs::write(path, text).expect("write");
        }
        std::fs::create_dir_all(root.join("var/lib/dpkg/updates")).expect("make");
        let text = "[node]\ndirectory = \"state\"\nroot = \"root\"\ncontrol-socket = \"control.socket\"\n\
                    listen = [\"/ip4/127.0.0.1/tcp/0\"]\nmdns = false\n";
        std::fs::write(self.path().join(name).join("patchmesh.toml"), text).expect("write");
    }

    fn join(&self, name: &str, key: &str) -> Command {
        self.command(&["join", "--config", &format!("{name}/patchmesh.toml"), "--host", name, key])
    }
}

fn multiaddress(port: u16) -> String {
    format!("/ip4/127.0.0.1/tcp/{port}")
}
