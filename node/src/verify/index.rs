//! Reads a package index (`Packages`, plain or xz) stanza by stanza within bounds; bombs are refused.

use liblzma::read::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};
use protocol::digest::Sha256;
use protocol::limits::{DECOMPRESSOR_BYTES, INDEX_PLAIN_BYTES, STANZA_BYTES};
use std::io::{BufRead, BufReader, Read};

/// How an index is compressed; its path in the release file says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// The .xz format.
    Xz,
}

impl Compression {
    /// By the file name at the end of `path`; `None` for one that this build does not read.
    pub fn of_path(path: &str) -> Option<Compression> {
        match path.rsplit('/').next()? {
            "Packages" => Some(Compression::Plain),
            "Packages.xz" => Some(Compression::Xz),
            _ => None,
        }
    }
}

/// Why an index cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum IndexFault {
    /// More bytes than an index may have, after decompression or in one stanza, or a decompressor that wants too much.
    #[error("package index is larger than the limit: {0}")]
    TooLarge(&'static str),
    /// It does not decompress.
    #[error("package index does not decompress")]
    Damaged(#[source] std::io::Error),
    /// A stanza is not a list of fields.
    #[error("package index is malformed: {0}")]
    Malformed(&'static str),
}

/// One stanza: the fields of one package.
#[derive(Clone, Copy, Debug)]
pub struct Stanza<'a>(&'a [u8]);

impl<'a> Stanza<'a> {
    /// First line of the field `name` (compared without case), without white space around it; `None` when the field is
    /// not there or not UTF-8.
    pub fn field(&self, name: &str) -> Option<&'a str> {
        let value = self.0.split(|byte| *byte == b'\n').find_map(|line| {
            let (head, rest) = line.split_at_checked(name.len())?;
            if head.eq_ignore_ascii_case(name.as_bytes()) { rest.strip_prefix(b":") } else { None }
        })?;
        std::str::from_utf8(value).ok().map(str::trim)
    }

    /// `SHA256` and `Size` of the package file.
    pub fn file(&self) -> Option<(Sha256, u64)> {
        Some((self.field("SHA256")?.parse().ok()?, self.field("Size")?.parse().ok()?))
    }

    /// Refuses a stanza whose fields could be read in two ways.
    fn check(&self) -> Result<(), IndexFault> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        for line in self.0.split(|byte| *byte == b'\n') {
            if line.is_empty() || line.starts_with(b" ") || line.starts_with(b"\t") {
                continue;
            }
            let end = line.iter().position(|byte| *byte == b':').ok_or(IndexFault::Malformed("no field"))?;
            names.push(line[..end].to_ascii_lowercase());
        }
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(IndexFault::Malformed("a field stands twice"));
        }
        Ok(())
    }
}

/// Calls `visit` for each stanza of `bytes` whose `Package` is one that `wanted` wants.
///
/// # Errors
/// [`IndexFault`]; stanzas before the fault were visited, so the caller throws away what it took.
pub fn for_each_package(
    bytes: &[u8],
    compression: Compression,
    wanted: impl Fn(&str) -> bool,
    visit: impl FnMut(&Stanza<'_>),
) -> Result<(), IndexFault> {
    for_each_within(INDEX_PLAIN_BYTES, bytes, compression, wanted, visit)
}

fn for_each_within(
    limit: u64,
    bytes: &[u8],
    compression: Compression,
    wanted: impl Fn(&str) -> bool,
    mut visit: impl FnMut(&Stanza<'_>),
) -> Result<(), IndexFault> {
    let plain: Box<dyn Read + '_> = match compression {
        Compression::Plain => Box::new(bytes),
        Compression::Xz => {
            let stream = Stream::new_stream_decoder(DECOMPRESSOR_BYTES, CONCATENATED);
            Box::new(XzDecoder::new_stream(bytes, stream.map_err(|error| IndexFault::Damaged(error.into()))?))
        }
    };
    // One byte more than allowed tells "too large" from "just fits".
    let mut reader = BufReader::with_capacity(64 << 10, plain.take(limit + 1));
    let mut stanza = Vec::new();
    let mut total: u64 = 0;
    loop {
        let start = stanza.len();
        let room = (STANZA_BYTES - start) as u64 + 1;
        let read = reader.by_ref().take(room).read_until(b'\n', &mut stanza).map_err(fault_of)?;
        total += read as u64;
        if total > limit {
            return Err(IndexFault::TooLarge("it decompresses to more than an index may have"));
        }
        if stanza.len() > STANZA_BYTES {
            return Err(IndexFault::TooLarge("one stanza is too long"));
        }
        let is_separator = stanza[start..].iter().all(u8::is_ascii_whitespace);
        if read == 0 || is_separator {
            stanza.truncate(start);
            let found = Stanza(&stanza);
            if found.field("Package").is_some_and(&wanted) {
                found.check()?;
                visit(&found);
            }
            stanza.clear();
        }
        if read == 0 {
            return Ok(());
        }
    }
}

fn fault_of(error: std::io::Error) -> IndexFault {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<liblzma::stream::Error>());
    match cause {
        Some(liblzma::stream::Error::MemLimit) => {
            IndexFault::TooLarge("it asks for more memory than a decompressor may take")
        }
        _ => IndexFault::Damaged(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use liblzma::read::XzEncoder;
    use proptest::prelude::*;

    const TEXT: &str =
        "Package: a\nVersion: 1\nDescription: first\n Package: b\n\nPackage: b\nVersion: 2\nSize: 7\n\n";

    fn xz(bytes: &[u8], level: u32) -> Vec<u8> {
        let mut packed = Vec::new();
        XzEncoder::new(bytes, level).read_to_end(&mut packed).expect("packs");
        packed
    }

    fn versions(bytes: &[u8], compression: Compression, name: &str) -> Result<Vec<String>, IndexFault> {
        let mut found = Vec::new();
        for_each_package(
            bytes,
            compression,
            |package| package == name,
            |stanza| found.extend(stanza.field("version").map(str::to_owned)),
        )?;
        Ok(found)
    }

    #[test]
    fn finds_packages_plain_and_packed() {
        for name in ["a", "b"] {
            let plain = versions(TEXT.as_bytes(), Compression::Plain, name).expect("plain");
            assert_eq!(plain.len(), 1, "{name}");
            let packed = versions(&xz(TEXT.as_bytes(), 1), Compression::Xz, name).expect("packed");
            assert_eq!(plain, packed);
        }
        let open_ended = TEXT.trim_end().as_bytes();
        assert_eq!(versions(open_ended, Compression::Plain, "b").expect("no final line end"), ["2"]);
    }

    #[test]
    fn hostile_indexes_are_refused() {
        let bomb = xz(&vec![b'\n'; 1 << 20], 6);
        let read = |limit| for_each_within(limit, &bomb, Compression::Xz, |_| true, |_| ());
        assert!(read(1 << 20).is_ok(), "within the limit");
        assert!(matches!(read((1 << 20) - 1), Err(IndexFault::TooLarge(_))));
        let long = vec![b'x'; STANZA_BYTES + 1];
        assert!(matches!(versions(&long, Compression::Plain, "a"), Err(IndexFault::TooLarge(_))));
        let twice = b"Package: a\nVersion: 1\nversion: 2\n";
        assert!(matches!(versions(twice, Compression::Plain, "a"), Err(IndexFault::Malformed(_))));
        let mut packed = xz(TEXT.as_bytes(), 1);
        let middle = packed.len() / 2;
        packed[middle] ^= 1;
        assert!(matches!(versions(&packed, Compression::Xz, "a"), Err(IndexFault::Damaged(_))));
        packed[middle] ^= 1;
        packed.extend_from_slice(b"rest");
        assert!(versions(&packed, Compression::Xz, "a").is_err(), "bytes after the end");
    }

    // A header of .xz alone decides how much memory the decompressor takes: here a dictionary of 1.5 GiB.
    #[test]
    fn a_greedy_header_is_refused() {
        let mut filters = liblzma::stream::Filters::new();
        let mut options = liblzma::stream::LzmaOptions::new_preset(0).expect("preset");
        options.dict_size(1 << 20);
        filters.lzma2(&options);
        let stream = Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc32).expect("encoder");
        let mut packed = Vec::new();
        XzEncoder::new_stream(TEXT.as_bytes(), stream).read_to_end(&mut packed).expect("packs");
        // Block header (.xz format 3.1): size, flags, filter 0x21, one property byte (the dictionary), padding, CRC-32.
        let at = packed.windows(2).position(|pair| pair == [0x21, 0x01]).expect("filter flags") + 2;
        packed[at] = 37;
        let header_end = 12 + (packed[12] as usize + 1) * 4;
        let sum = crc32(&packed[12..header_end - 4]).to_le_bytes();
        packed[header_end - 4..header_end].copy_from_slice(&sum);
        assert!(matches!(versions(&packed, Compression::Xz, "a"), Err(IndexFault::TooLarge(_))));
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |sum, byte| {
            (0..8)
                .fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg()))
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = versions(&bytes, Compression::Plain, "a");
            let _ = versions(&bytes, Compression::Xz, "a");
            let mut packed = xz(TEXT.as_bytes(), 0);
            let at = bytes.len() % packed.len();
            packed[at] ^= bytes.first().copied().unwrap_or(1);
            let _ = versions(&packed, Compression::Xz, "a");
        }
    }
}
