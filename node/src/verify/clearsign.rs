//! Takes a clear-signed message apart (RFC 9580, section 7): one message, nothing before it, nothing after it.

use data_encoding::BASE64;
use pgp::packet::{Packet, PacketParser, Signature};
use protocol::limits::{OPENPGP_SIGNATURES, RELEASE_BYTES};

const BEGIN: &str = "-----BEGIN PGP SIGNED MESSAGE-----";
const BEGIN_SIGNATURE: &str = "-----BEGIN PGP SIGNATURE-----";
const END_SIGNATURE: &str = "-----END PGP SIGNATURE-----";
/// Names that may stand in a `Hash` header; the weak ones are read, and refused with the signature.
const DIGESTS: [&str; 6] = ["SHA256", "SHA384", "SHA512", "SHA224", "SHA1", "RIPEMD160"];

/// A message whose signatures nobody has checked yet.
#[derive(Debug)]
pub struct Unchecked {
    /// The text as it is signed, without dash escapes and without white space at the end of lines; lines end in LF.
    pub(super) text: String,
    /// Names of digests in the `Hash` headers.
    pub(super) digests: Vec<String>,
    /// The signatures.
    pub(super) signatures: Vec<Signature>,
}

/// Bytes that are not exactly one clear-signed message.
#[derive(Debug, thiserror::Error)]
pub enum NotClearSigned {
    /// Larger than any release file.
    #[error("{0} bytes are more than a release file may have")]
    TooLarge(usize),
    /// Not UTF-8.
    #[error("it is not UTF-8 text")]
    Text,
    /// The frame is wrong at this line, counted from 1.
    #[error("line {line}: {what}")]
    Frame {
        /// Line, counted from 1.
        line: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// The signature block does not decode.
    #[error("the signature block is damaged: {0}")]
    Signature(String),
}

/// Lines of a text with their numbers, without their ends.
struct Lines<'a> {
    rest: std::iter::Enumerate<std::str::Split<'a, char>>,
    line: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Result<&'a str, NotClearSigned> {
        let (at, line) = self.rest.next().ok_or_else(|| self.wrong("the message ends too early"))?;
        self.line = at + 1;
        let line = line.strip_suffix('\r').unwrap_or(line);
        // A carriage return elsewhere, or a NUL, would be read in different ways by different programs.
        if line.contains(['\r', '\0']) { Err(self.wrong("has a control character")) } else { Ok(line) }
    }

    fn wrong(&self, what: &'static str) -> NotClearSigned {
        NotClearSigned::Frame { line: self.line, what }
    }
}

/// Takes `bytes` apart.
///
/// # Errors
/// [`NotClearSigned`] unless they are exactly one clear-signed message with nothing around it.
pub fn parse(bytes: &[u8]) -> Result<Unchecked, NotClearSigned> {
    if bytes.len() > RELEASE_BYTES {
        return Err(NotClearSigned::TooLarge(bytes.len()));
    }
    let message = std::str::from_utf8(bytes).map_err(|_| NotClearSigned::Text)?;
    let mut lines = Lines { rest: message.split('\n').enumerate(), line: 1 };
    if lines.next()? != BEGIN {
        return Err(lines.wrong("text before the signed message"));
    }
    let digests = parse_headers(&mut lines)?;
    let text = parse_text(&mut lines)?;
    let block = parse_armour(&mut lines)?;
    for (at, line) in lines.rest {
        if !line.strip_suffix('\r').unwrap_or(line).is_empty() {
            return Err(NotClearSigned::Frame { line: at + 1, what: "text after the signature" });
        }
    }
    Ok(Unchecked { text, digests, signatures: parse_signatures(&block)? })
}

fn parse_headers(lines: &mut Lines<'_>) -> Result<Vec<String>, NotClearSigned> {
    let mut digests = Vec::new();
    loop {
        let line = lines.next()?;
        if line.is_empty() {
            return Ok(digests);
        }
        let Some(names) = line.strip_prefix("Hash: ") else {
            return Err(lines.wrong("a header other than \"Hash\""));
        };
        for name in names.split(',').map(|name| name.trim_matches([' ', '\t'])) {
            if !DIGESTS.contains(&name) {
                return Err(lines.wrong("the name of no digest"));
            }
            digests.push(name.to_owned());
        }
        if digests.len() > OPENPGP_SIGNATURES {
            return Err(lines.wrong("too many \"Hash\" headers"));
        }
    }
}

fn parse_text(lines: &mut Lines<'_>) -> Result<String, NotClearSigned> {
    let mut text = String::new();
    loop {
        let line = lines.next()?;
        if line == BEGIN_SIGNATURE {
            return Ok(text);
        }
        let line = match line.strip_prefix('-') {
            None => line,
            Some(escaped) => {
                escaped.strip_prefix(' ').ok_or_else(|| lines.wrong("a dash that is not escaped"))?
            }
        };
        text.push_str(line.trim_end_matches([' ', '\t']));
        text.push('\n');
    }
}

/// The bytes of an ASCII-armoured block after its first line (RFC 9580, section 6), its CRC-24 checked when it has one.
fn parse_armour(lines: &mut Lines<'_>) -> Result<Vec<u8>, NotClearSigned> {
    loop {
        let header = lines.next()?;
        if header.is_empty() {
            break;
        }
        if !header.contains(": ") {
            return Err(lines.wrong("not a header of a signature block"));
        }
    }
    let mut encoded = String::new();
    let mut sum = None;
    loop {
        let line = lines.next()?.trim_end_matches([' ', '\t']);
        if line == END_SIGNATURE {
            break;
        }
        if sum.is_some() || line.starts_with('-') {
            return Err(lines.wrong("the signature block does not end here"));
        }
        match line.strip_prefix('=') {
            Some(digits) if digits.len() == 4 => sum = Some(digits),
            _ => encoded.push_str(line),
        }
    }
    let damaged = |what: &str| NotClearSigned::Signature(what.to_owned());
    let bytes = BASE64.decode(encoded.as_bytes()).map_err(|_| damaged("it is not base64"))?;
    if let Some(digits) = sum {
        let stated = BASE64.decode(digits.as_bytes()).map_err(|_| damaged("its checksum is not base64"))?;
        if stated != crc24(&bytes).to_be_bytes()[1..] {
            return Err(damaged("its checksum is wrong"));
        }
    }
    Ok(bytes)
}

/// CRC-24 of RFC 9580, section 6.1.1.
fn crc24(bytes: &[u8]) -> u32 {
    let mut sum = 0x00b7_04ce_u32;
    for byte in bytes {
        sum ^= u32::from(*byte) << 16;
        for _ in 0..8 {
            sum <<= 1;
            if sum & 0x0100_0000 != 0 {
                sum ^= 0x0186_4cfb;
            }
        }
    }
    sum & 0x00ff_ffff
}

fn parse_signatures(block: &[u8]) -> Result<Vec<Signature>, NotClearSigned> {
    let mut signatures = Vec::new();
    for packet in PacketParser::new(block) {
        match packet {
            Ok(Packet::Signature(signature)) => signatures.push(signature),
            Ok(_) => return Err(NotClearSigned::Signature("it holds something else".to_owned())),
            Err(error) => return Err(NotClearSigned::Signature(error.to_string())),
        }
        if signatures.len() > OPENPGP_SIGNATURES {
            return Err(NotClearSigned::Signature("it holds too many signatures".to_owned()));
        }
    }
    if signatures.is_empty() {
        return Err(NotClearSigned::Signature("it holds no signature".to_owned()));
    }
    Ok(signatures)
}
