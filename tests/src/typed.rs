//! Commands as people type them, in a directory of their own: run to their end with all that they say, or in the background.

use crate::program;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Longest time for anything that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// The program under test.
///
/// # Panics
/// When there is none; the message says what to run.
pub fn path() -> PathBuf {
    match program::path() {
        Ok(path) => path,
        Err(error) => panic!("{error}"),
    }
}

/// The program in `directory`, with nothing of the caller's environment but `PATH`, on which it stands itself.
pub fn command(directory: &Path) -> Command {
    prepared(Command::new(path()), directory)
}

/// Any other program in the same surroundings.
pub fn other(program: &str, directory: &Path) -> Command {
    prepared(Command::new(program), directory)
}

fn prepared(mut command: Command, directory: &Path) -> Command {
    let program = path();
    let own = program.parent().unwrap_or(Path::new("/")).display().to_string();
    let search = format!("{own}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.env_clear().env("PATH", search).current_dir(directory).stdin(Stdio::null());
    command
}

/// How a command ended and what it said.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs a command to its end; one that does not end is killed and has no code.
///
/// # Panics
/// When it cannot be started.
pub fn run(mut command: Command) -> Said {
    let output = tempfile::tempdir().expect("directory");
    let (out, err) = (output.path().join("out"), output.path().join("err"));
    let file = |path: &Path| File::create(path).expect("file");
    command.stdout(file(&out)).stderr(file(&err));
    let mut child = command.spawn().expect("the command starts");
    let mut code = None;
    let ended = wait_for(|| child.try_wait().expect("own child").inspect(|status| code = status.code()));
    if ended.is_none() {
        stop_now(&mut child);
    }
    let read =
        |path: &Path| String::from_utf8_lossy(&std::fs::read(path).expect("what it said")).into_owned();
    Said { code, out: read(&out), err: read(&err) }
}

/// A node in the background, killed at the end of the test.
#[derive(Debug)]
pub struct Background {
    child: Child,
    log: PathBuf,
}

impl Background {
    /// Starts a command with its output in the file `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(mut command: Command, log: &Path) -> Background {
        let file = File::create(log).expect("log");
        command.stdout(file.try_clone().expect("log")).stderr(file);
        Background { child: command.spawn().expect("the command starts"), log: log.to_owned() }
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        stop_now(&mut self.child);
    }
}

fn stop_now(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Asks again and again until there is an answer; `None` when there is none in time.
pub fn wait_for<T>(mut answer: impl FnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = answer() {
            return Some(found);
        }
        if began.elapsed() > PATIENCE {
            return None;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Ports for tests: above the well-known ones and below those that the system gives to outgoing connections.
const PORTS: std::ops::Range<u16> = 12_000..32_000;
/// Whoever has a port of [`PORTS`] in use as a test has the same port of this address, for datagrams.
const TAKEN: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 1);

/// A port on loopback that is free, and that no other test gets while this process lives.
///
/// # Errors
/// When there is none.
pub fn free_port() -> io::Result<u16> {
    static MINE: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());
    let mut mine = MINE.lock().map_err(|_poisoned| io::Error::other("a test died while it took a port"))?;
    // Far apart, so that tests that start at the same moment seldom try the same ones.
    let begin = PORTS.len() / 499 * (std::process::id() % 499) as usize;
    for port in PORTS.cycle().skip(begin).take(PORTS.len()) {
        if let Ok(taken) = UdpSocket::bind((TAKEN, port))
            && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
        {
            mine.push(taken);
            return Ok(port);
        }
    }
    Err(io::Error::other("no free port on loopback"))
}
