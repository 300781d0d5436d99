//! Files that are none: a pipe that nobody writes to, a device that never ends, a hole of terabytes. Each command says so at once.

use super::{Place, case, check};
use patchmesh_tests::typed;
use std::fs::{self, File};
use std::process::{Command, Stdio};

/// A command that ends within its bound, or shows by its code that it did not.
fn bounded(command: &Command) -> Command {
    let mut within = typed::other("timeout", command.get_current_dir().expect("a directory"));
    within.arg("20").arg(command.get_program()).args(command.get_args());
    within
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let place = Place::new();
    let path = |name: &str| place.path().join(name);
    rustix::fs::mkfifoat(rustix::fs::CWD, path("pipe"), rustix::fs::Mode::RUSR).expect("a pipe");
    File::create(path("hole")).expect("make").set_len(1 << 42).expect("a hole of 4 TiB");
    fs::write(path("tool.deb"), "junk").expect("write");
    let import = |file: &str, more: &[&str]| {
        let first = ["catalogue", "import", "file", file, "--vendor", "acme"];
        place.command(&[&first, more].concat())
    };
    let pipe = "it is no regular file; copy what it gives into one";
    let large = "it has more than";
    for (file, says) in [("pipe", pipe), ("/dev/zero", pipe), ("hole", large)] {
        let commands = [
            (import(file, &["--unsigned"]), 1),
            (place.command(&["policy", "check", file]), 1),
            (place.command(&["policy", "apply", file]), 1),
            (place.command(&["node", "run", "--config", file]), 78),
            (place.command(&["doctor", "--config", file]), 1),
        ];
        for (command, code) in commands {
            let said = typed::run(bounded(&command));
            let what = format!("{command:?}: {:?} {}{}", said.code, said.out, said.err);
            assert!(said.code == Some(code) && format!("{}{}", said.out, said.err).contains(says), "{what}");
        }
    }
    // The signature is read after the package.
    let built = patchmesh_tests::package::Vendor::new(place.path()).upgrade("tool", 100).expect("dpkg-deb");
    let package = built.newer.display().to_string();
    for (file, says) in [("pipe", pipe), ("/dev/zero", pipe), ("hole", large)] {
        let command = bounded(&import(&package, &["--signature", file]));
        check(case("signature", command, 1, [says]), place.path());
    }
}

#[test]
fn an_activation_key_is_read_from_one_line_of_an_input_that_may_never_end() {
    let place = Place::new();
    place.device("desk");
    let join = || place.join("desk", "-");
    let mut endless = bounded(&join());
    endless.stdin(Stdio::from(File::open("/dev/zero").expect("/dev/zero")));
    let says = ["no activation key in its first line", "patchmesh token create"];
    check(case("endless input", endless, 2, says), place.path());
    // The writer stays: the line is enough.
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    std::io::Write::write_all(&mut writer, b"patchmesh1-abc\n").expect("write");
    let mut waiting = bounded(&join());
    waiting.stdin(Stdio::from(reader));
    check(case("open input", waiting, 2, ["copy the whole line"]), place.path());
    drop(writer);
}
