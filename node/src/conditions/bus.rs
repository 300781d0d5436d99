//! One question to `NetworkManager` over the system's message bus: does what this machine's connection carries cost money?
//!
//! The bus speaks the D-Bus protocol (its specification, "Message Protocol" and "Authentication Protocol"). One property is
//! all that is read, so this is a request and an answer and no library.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The bus is on this machine: whoever takes longer is not there.
const PATIENCE: Duration = Duration::from_secs(2);
/// No message in this exchange is nearly so long.
const MESSAGE_BYTES: usize = 16 << 10;
/// Messages that may come before the answer, such as the signal that the name was acquired.
const MESSAGES: usize = 16;
/// Values of `Metered` that mean yes: 1, and 3 where it is guessed (`NMMetered`).
const YES: [u32; 2] = [1, 3];
/// Types of messages.
const CALL: u8 = 1;
const ANSWER: u8 = 2;
const ERROR: u8 = 3;

/// What `NetworkManager` says; `None` where there is no bus, nobody of that name, or no sensible answer.
pub(super) fn network_manager_says_metered(bus: &Path) -> Option<bool> {
    let mut stream = UnixStream::connect(bus).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    let metered = ask(&mut stream, rustix::process::getuid().as_raw()).ok()??;
    Some(YES.contains(&metered))
}

/// Authenticates as this process's user, says hello, and reads the property.
fn ask<S: Read + Write>(stream: &mut S, user: u32) -> io::Result<Option<u32>> {
    let identity: String = user.to_string().bytes().map(|byte| format!("{byte:02x}")).collect();
    stream.write_all(format!("\0AUTH EXTERNAL {identity}\r\n").as_bytes())?;
    if !line(stream)?.starts_with(b"OK ") {
        return Ok(None);
    }
    stream.write_all(b"BEGIN\r\n")?;
    let bus =
        Call { to: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus" };
    stream.write_all(&bus.encode(1, "Hello", "", &[]))?;
    let manager = Call {
        to: "org.freedesktop.NetworkManager",
        path: "/org/freedesktop/NetworkManager",
        interface: "org.freedesktop.DBus.Properties",
    };
    let mut property = Vec::new();
    put_text(&mut property, "org.freedesktop.NetworkManager");
    put_text(&mut property, "Metered");
    stream.write_all(&manager.encode(2, "Get", "ss", &property))?;
    for _ in 0..MESSAGES {
        let message = Message::read(stream)?;
        if message.answers(2) {
            return Ok(message.unsigned());
        }
    }
    Ok(None)
}

fn line<S: Read>(stream: &mut S) -> io::Result<Vec<u8>> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while !line.ends_with(b"\r\n") && line.len() < MESSAGE_BYTES {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    Ok(line)
}

/// Whom to call.
struct Call {
    to: &'static str,
    path: &'static str,
    interface: &'static str,
}

impl Call {
    /// A call of `member`, whose arguments are of this signature and make up the body, in little endian.
    fn encode(&self, serial: u32, member: &str, signature: &str, body: &[u8]) -> Vec<u8> {
        let mut fields = Vec::new();
        for (code, kind, text) in
            [(1, 'o', self.path), (2, 's', self.interface), (3, 's', member), (6, 's', self.to)]
        {
            pad(&mut fields, 8);
            fields.extend([code, 1, kind as u8, 0]);
            put_text(&mut fields, text);
        }
        if !signature.is_empty() {
            pad(&mut fields, 8);
            fields.extend([8, 1, b'g', 0, u8::try_from(signature.len()).unwrap_or_default()]);
            fields.extend(signature.bytes().chain([0]));
        }
        let mut message = vec![b'l', CALL, 0, 1];
        for number in [length(body), serial, length(&fields)] {
            message.extend(number.to_le_bytes());
        }
        message.extend(fields);
        pad(&mut message, 8);
        message.extend(body);
        message
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fn pad(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    pad(bytes, 4);
    bytes.extend(length(text.as_bytes()).to_le_bytes());
    bytes.extend(text.bytes().chain([0]));
}

/// One message of the bus, as far as it matters here.
struct Message {
    kind: u8,
    /// Of the call that it answers.
    reply_serial: Option<u32>,
    big_endian: bool,
    body: Vec<u8>,
}

impl Message {
    fn read<S: Read>(stream: &mut S) -> io::Result<Message> {
        let mut head = [0; 16];
        stream.read_exact(&mut head)?;
        let big_endian = head[0] == b'B';
        let number = |at: usize| number_at(&head, at, big_endian).unwrap_or(u32::MAX) as usize;
        let (body, fields) = (number(4), number(12));
        if body.saturating_add(fields) > MESSAGE_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut rest = vec![0; fields.next_multiple_of(8) + body];
        stream.read_exact(&mut rest)?;
        let body = rest.split_off(fields.next_multiple_of(8));
        Ok(Message { kind: head[1], reply_serial: reply_serial(&rest, big_endian), big_endian, body })
    }

    fn answers(&self, serial: u32) -> bool {
        (self.kind == ANSWER || self.kind == ERROR) && self.reply_serial == Some(serial)
    }

    /// The body of an answer that is a variant of an unsigned number: signature `u`, then the number.
    fn unsigned(&self) -> Option<u32> {
        let is_number = self.kind == ANSWER && self.body.starts_with(&[1, b'u', 0]);
        is_number.then(|| number_at(&self.body, 4, self.big_endian)).flatten()
    }
}

/// The header field 5 with its number, the only one of its kind: code, signature `u`, number.
fn reply_serial(fields: &[u8], big_endian: bool) -> Option<u32> {
    let starts = (0..fields.len()).step_by(8);
    let at = starts.into_iter().find(|at| fields[*at..].starts_with(&[5, 1, b'u', 0]))?;
    number_at(fields, at + 4, big_endian)
}

fn number_at(bytes: &[u8], at: usize, big_endian: bool) -> Option<u32> {
    let four: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(if big_endian { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) })
}

#[cfg(test)]
mod tests;
