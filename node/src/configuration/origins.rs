//! The parts of the configuration that say where a seed's content lies: the table `[bucket]` and the mirrors.

use super::layer::{BucketTable, Located, Role};
use super::{Bad, absolute, bad, required};
use protocol::limits::CACHE_BYTES;
pub use protocol::policy::mirror::Mirror;
use protocol::policy::mirror::NotAMirror;
use std::path::{Path, PathBuf};

/// The table `[bucket]`: storage that speaks S3, for a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// Address of the storage, `http://` or `https://`. Without it, that of AWS for the region.
    pub endpoint: Option<String>,
    /// Region. Default `us-east-1`, which storage without regions takes.
    pub region: String,
    /// What the names of all objects begin with, a slash after it. Default: nothing.
    pub prefix: String,
    /// File with the access key; without it, it is in the environment.
    pub credentials: Option<PathBuf>,
}

pub(super) fn bucket(role: Role<BucketTable>, base: &Path) -> Result<Bucket, Bad> {
    let Role { origin, table } = role;
    let name = required(table.name, &origin, "bucket.name", "the name of a bucket")?;
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
    if !(3..=63).contains(&name.value.len()) || !name.value.bytes().all(plain) {
        let problem = format!(
            "bucket.name: \"{}\" is not the name of a bucket; expected 3 to 63 lower-case letters, digits, dots and hyphens",
            name.value
        );
        return Err(bad(&name.origin, problem));
    }
    if let Some(endpoint) = &table.endpoint
        && !is_web_address(&endpoint.value)
    {
        let problem = format!(
            "bucket.endpoint: \"{}\" is not an address; expected one such as https://s3.example:9000, without a user or a path",
            endpoint.value
        );
        return Err(bad(&endpoint.origin, problem));
    }
    let text = |value: Option<Located<String>>| value.map(|located| located.value);
    Ok(Bucket {
        name: name.value,
        endpoint: text(table.endpoint),
        region: text(table.region).unwrap_or_else(|| "us-east-1".to_owned()),
        prefix: text(table.prefix).unwrap_or_default(),
        credentials: table.credentials.map(|file| absolute(file, base).value),
    })
}

pub(super) fn mirrors(value: Option<Located<Vec<String>>>) -> Result<Vec<Mirror>, Bad> {
    let Some(located) = value else { return Ok(Vec::new()) };
    let mirror = |text: &String| {
        let problem = |error| format!("seed.mirrors has an entry that is no mirror; {error}");
        text.parse().map_err(|error: NotAMirror| bad(&located.origin, problem(error)))
    };
    located.value.iter().map(mirror).collect()
}

/// The bytes that `setting` says, which is `value`.
pub(super) fn keep_bytes(setting: &str, value: Option<&Located<u64>>, default: u64) -> Result<u64, Bad> {
    let Some(located) = value else { return Ok(default) };
    located.value.checked_mul(1 << 30).filter(|bytes| *bytes <= CACHE_BYTES).ok_or_else(|| {
        let most = CACHE_BYTES >> 30;
        bad(&located.origin, format!("{setting} = {} is too much; expected 0 to {most}", located.value))
    })
}

fn has_scheme(url: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| url.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
}

fn is_web_address(url: &str) -> bool {
    let host = url.split_once("://").map(|(_, rest)| rest.trim_end_matches('/'));
    has_scheme(url) && host.is_some_and(|host| !host.contains(['@', '/', '?', '#']))
}
