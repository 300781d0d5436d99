//! The question over a real message bus, to somebody who answers as `NetworkManager` does.

use super::*;
use std::io::BufRead as _;
use std::process::{Child, Command, Stdio};

/// A bus of its own; it ends with this value.
struct Bus {
    daemon: Child,
    directory: tempfile::TempDir,
}

impl Bus {
    fn start() -> Bus {
        let directory = tempfile::tempdir().expect("directory");
        let address = format!("--address=unix:path={}", directory.path().join("bus").display());
        let mut command = Command::new("dbus-daemon");
        command
            .args(["--session", "--nofork", "--nopidfile", "--print-address=1", &address])
            .stdout(Stdio::piped());
        let mut daemon =
            command.spawn().expect("this test needs dbus-daemon; install the package dbus-daemon");
        let said = daemon.stdout.take().expect("piped");
        // It listens when it says where.
        io::BufReader::new(said).read_line(&mut String::new()).expect("an address");
        Bus { daemon, directory }
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("bus")
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Takes the name of `NetworkManager`, and answers one call with `metered`.
fn network_manager(bus: &Path, metered: u32) -> std::thread::JoinHandle<()> {
    let mut stream = UnixStream::connect(bus).expect("bus");
    let user = rustix::process::getuid().as_raw().to_string();
    let identity: String = user.bytes().map(|byte| format!("{byte:02x}")).collect();
    stream.write_all(format!("\0AUTH EXTERNAL {identity}\r\n").as_bytes()).expect("bus");
    assert!(line(&mut stream).expect("bus").starts_with(b"OK "));
    let call =
        Call { to: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus" };
    let mut name = Vec::new();
    put_text(&mut name, "org.freedesktop.NetworkManager");
    pad(&mut name, 4);
    // Flags: none.
    name.extend([0; 4]);
    stream.write_all(b"BEGIN\r\n").expect("bus");
    stream.write_all(&call.encode(1, "Hello", "", &[])).expect("bus");
    stream.write_all(&call.encode(2, "RequestName", "su", &name)).expect("bus");
    while !Message::read(&mut stream).expect("bus").answers(2) {}
    std::thread::spawn(move || {
        let (serial, sender) = loop {
            let mut head = [0; 16];
            stream.read_exact(&mut head).expect("bus");
            let number = |at| number_at(&head, at, head[0] == b'B').expect("a number") as usize;
            let mut rest = vec![0; number(12).next_multiple_of(8) + number(4)];
            stream.read_exact(&mut rest).expect("bus");
            // Field 7 is the sender.
            let at = (0..rest.len()).step_by(8).find(|at| rest[*at..].starts_with(&[7, 1, b's', 0]));
            let sender = at.map(|at| {
                let length = number_at(&rest, at + 4, head[0] == b'B').expect("a length") as usize;
                String::from_utf8(rest[at + 8..at + 8 + length].to_vec()).expect("text")
            });
            if head[1] == CALL {
                break (number(8), sender.expect("a sender"));
            }
        };
        let mut fields = vec![5, 1, b'u', 0];
        fields.extend(u32::try_from(serial).expect("short").to_le_bytes());
        fields.extend([6, 1, b's', 0]);
        put_text(&mut fields, &sender);
        pad(&mut fields, 8);
        fields.extend([8, 1, b'g', 0, 1, b'v', 0]);
        let body = [&[1, b'u', 0, 0][..], &metered.to_le_bytes()].concat();
        let mut answer = vec![b'l', ANSWER, 0, 1];
        for number in [length(&body), 3, length(&fields)] {
            answer.extend(number.to_le_bytes());
        }
        answer.extend(fields);
        pad(&mut answer, 8);
        answer.extend(body);
        stream.write_all(&answer).expect("bus");
    })
}

#[test]
fn network_manager_is_asked_and_believed() {
    for (says, metered) in [(0, false), (1, true), (2, false), (3, true), (4, false)] {
        let bus = Bus::start();
        let manager = network_manager(&bus.path(), says);
        assert_eq!(network_manager_says_metered(&bus.path()), Some(metered), "{says}");
        manager.join().expect("it answered");
    }
}

#[test]
fn without_a_bus_or_the_manager_nothing_is_known() {
    assert_eq!(network_manager_says_metered(Path::new("/does/not/exist")), None);
    let bus = Bus::start();
    assert_eq!(network_manager_says_metered(&bus.path()), None);
}

proptest::proptest! {
    #[test]
    fn no_answer_makes_it_panic(bytes: Vec<u8>) {
        let mut stream = io::Cursor::new([b"OK x\r\n".to_vec(), bytes.clone()].concat());
        // The cursor gives back what is written over its beginning; what matters is that it ends.
        let _ = ask(&mut stream, 0);
        let _ = Message::read(&mut io::Cursor::new(bytes)).map(|message| message.unsigned());
    }
}
