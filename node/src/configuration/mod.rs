//! The configuration of a node: one TOML file, overridden by the environment, overridden by flags; checked as a whole
//! before anything is bound.
//!
//! Every setting is known by its place in the file, `table.name`. The environment variable of `node.control-socket` is
//! `PATCHMESH_NODE_CONTROL_SOCKET`. Relative paths of the file count from its directory, those of flags and of the environment from
//! the working directory, as those of every other command do.

mod layer;
mod origins;
mod paths;
mod spelling;

pub use origins::{Bucket, Mirror};

use crate::disk;
use layer::{Layer, Located};
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use paths::{absolute, directory, key_file, path, socket};
use protocol::limits::{CACHE_BYTES, KEEP_BYTES};
use protocol::rate::Rate;
use protocol::text::shown;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Largest configuration file that is read.
const FILE_BYTES: u64 = 1 << 20;

/// Where a node looks for its file when none is named.
pub const DEFAULT_FILE: &str = "/etc/patchmesh/patchmesh.toml";
/// Where a node answers, and where the command line asks, when nothing else is said.
pub const DEFAULT_CONTROL_SOCKET: &str = "/run/patchmesh/control.socket";
/// Where a node listens for members when nothing else is said: one port, in IPv4 and, where the machine has it, IPv6.
pub const DEFAULT_LISTEN: [&str; 2] = ["/ip4/0.0.0.0/tcp/7700", "/ip6/::/tcp/7700"];
/// Longest path of a Unix socket in bytes (`sun_path` of unix(7), less its final zero).
const SOCKET_PATH_BYTES: usize = 107;

/// Everything that a node is told at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// What every node needs.
    pub node: Node,
    /// Present when the node is a seed.
    pub seed: Option<Seed>,
    /// Present when the seed's content lies in a bucket.
    pub bucket: Option<Bucket>,
    /// Present when the node is a registrar.
    pub registrar: Option<Registrar>,
    /// Present when the node is an aggregator.
    pub aggregator: Option<Aggregator>,
}

/// The table `[node]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// State of the node: identity, certificate, metadata, content, reports. Default `/var/lib/patchmesh`.
    pub directory: PathBuf,
    /// Multiaddresses to listen on for members. Default [`DEFAULT_LISTEN`].
    pub listen: Vec<Multiaddr>,
    /// Multiaddresses at which others reach the node, when they are not those it listens on. When there are any, the
    /// node announces these and no others.
    pub external: Vec<Multiaddr>,
    /// Where the command line asks. Default [`DEFAULT_CONTROL_SOCKET`].
    pub control_socket: PathBuf,
    /// Root directory of the system that is scanned and patched. Default `/`.
    pub root: PathBuf,
    /// Whether the node may install when `root` is the running system. Default no.
    pub allow_deploy_on_host: bool,
    /// Whether neighbours are looked for with mDNS. Default yes.
    pub mdns: bool,
    /// Whether bytes on the link cost money, where the system does not say so itself.
    pub link: Option<LinkCost>,
    /// Cap on what the node fetches over the WAN.
    pub download_limit: Option<Rate>,
    /// Cap on what the node serves. Default: by its link, so that whoever works at the device does not notice.
    pub upload_limit: Option<Rate>,
    /// Bytes of content that stay for the neighbours once this device does not need them any more. Default 16 GiB.
    pub keep_bytes: u64,
    /// What to log: a level, or `target=level` pairs separated by commas. Default `info`.
    pub log: String,
    /// How to log.
    pub log_format: LogFormat,
}

/// What bytes on the link cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkCost {
    /// Money, or a share of an allowance.
    Metered,
    /// Nothing.
    Unmetered,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object on a line.
    Json,
}

/// The table `[seed]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The repository: `metadata/` and `targets/`.
    pub repository: PathBuf,
    /// Directory with the keys for snapshot and timestamp.
    pub keys: PathBuf,
    /// Mirrors that vendors' files can be read from.
    pub mirrors: Vec<Mirror>,
    /// Bytes that copies of what lies in the bucket or at mirrors may take up on the disk; the longest unused go first.
    pub keep_bytes: u64,
    /// Cap on all that the seed serves, divided among the sites in turn.
    pub upload_limit: Option<Rate>,
}

/// The table `[registrar]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registrar {
    /// Multiaddresses to listen on for devices that are not members yet. Default `/ip4/0.0.0.0/tcp/7701`.
    pub listen: Vec<Multiaddr>,
    /// Multiaddresses that activation keys name, when they are not those it listens on.
    pub external: Vec<Multiaddr>,
    /// File with the enrolment key.
    pub key: PathBuf,
}

/// The table `[aggregator]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregator {
    /// Address of the API and the dashboard. Default `127.0.0.1:7780`.
    pub http: SocketAddr,
    /// Names by which clients may call it, besides `localhost` and its numeric addresses. Default none.
    pub names: Vec<String>,
    /// File with the key that signs watermarks.
    pub watermark_key: PathBuf,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of the file, counted from 1.
    File(PathBuf, usize),
    /// The file as a whole.
    WholeFile(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag(String),
    /// Nobody set it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(path, line) => write!(f, "{}, line {line}", path.display()),
            Origin::WholeFile(path) => write!(f, "{}", path.display()),
            Origin::Environment(name) => write!(f, "environment variable {name}"),
            Origin::Flag(name) => write!(f, "flag {name}"),
            Origin::Default => f.write_str("built-in default"),
        }
    }
}

/// A configuration that a node does not start with.
#[derive(Debug, thiserror::Error)]
pub enum Bad {
    /// The file cannot be read.
    #[error("{path}: cannot read the configuration")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A value that is not what was expected.
    #[error("{origin}: {problem}")]
    Value {
        /// Where it stands.
        origin: Origin,
        /// What is wrong and what was expected.
        problem: String,
    },
}

/// One setting given on the command line: the flag's name (`--listen`), the setting (`node.listen`), the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// The flag as the user typed it.
    pub flag: String,
    /// The setting.
    pub setting: String,
    /// The value; entries of a list are separated by commas.
    pub value: String,
}

/// Whether an environment variable of this name is for a node, whatever its value.
pub fn is_variable(name: &str) -> bool {
    !matches!(layer::setting_of_variable(name), Ok(None))
}

impl Configuration {
    /// Reads the file (or none), puts the environment (all variables of the process) and the flags over it, and
    /// checks the whole.
    ///
    /// # Errors
    /// [`Bad`] with the file, the line, and what was expected. Nothing was created or bound.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[Flag],
    ) -> Result<Configuration, Bad> {
        let mut layer = match file {
            Some(path) => {
                let text = disk::read_text(path, FILE_BYTES)
                    .map_err(|source| Bad::Unreadable { path: path.to_owned(), source })?;
                Layer::from_file(path, &text)?
            }
            None => Layer::default(),
        };
        let mut variables: Vec<(String, String)> = environment.into_iter().collect();
        variables.sort();
        for (name, value) in &variables {
            if let Some(setting) = layer::setting_of_variable(name)? {
                layer.put(&setting, value, &Origin::Environment(name.clone()))?;
            }
        }
        for Flag { flag, setting, value } in flags {
            layer.put(setting, value, &Origin::Flag(flag.clone()))?;
        }
        // The parent of a bare file name is empty, and the absolute form of an empty path is an error.
        let file = file.unwrap_or(Path::new("."));
        let base =
            std::path::absolute(file).map_err(|source| Bad::Unreadable { path: file.to_owned(), source })?;
        finish(layer, if file == Path::new(".") { &base } else { base.parent().unwrap_or(&base) })
    }
}

fn finish(layer: Layer, base: &Path) -> Result<Configuration, Bad> {
    let node = layer.node;
    let root = directory(path(node.root, base, "/"), "node.root", "the root directory of a system")?;
    let node = Node {
        directory: path(node.directory, base, "/var/lib/patchmesh").value,
        listen: addresses(node.listen, "node.listen", &DEFAULT_LISTEN)?,
        external: addresses(node.external, "node.external", &[])?,
        control_socket: socket(path(node.control_socket, base, DEFAULT_CONTROL_SOCKET))?,
        root,
        allow_deploy_on_host: node.allow_deploy_on_host.is_some_and(|located| located.value),
        mdns: node.mdns.is_none_or(|located| located.value),
        link: link(node.link)?,
        download_limit: node.download_limit.map(|located| located.value),
        upload_limit: node.upload_limit.map(|located| located.value),
        keep_bytes: origins::keep_bytes("node.keep-gibibytes", node.keep_gibibytes.as_ref(), KEEP_BYTES)?,
        log: log(node.log)?,
        log_format: log_format(node.log_format)?,
    };
    let seed = layer.seed.map(|seed| -> Result<Seed, Bad> {
        let repository =
            required(seed.table.repository, &seed.origin, "seed.repository", "the repository's directory")?;
        let keys = required(
            seed.table.keys,
            &seed.origin,
            "seed.keys",
            "the directory of the snapshot and timestamp keys",
        )?;
        Ok(Seed {
            repository: directory(
                absolute(repository, base),
                "seed.repository",
                "the repository's directory",
            )?,
            keys: directory(absolute(keys, base), "seed.keys", "a directory with keys")?,
            mirrors: origins::mirrors(seed.table.mirrors)?,
            keep_bytes: origins::keep_bytes(
                "seed.keep-gibibytes",
                seed.table.keep_gibibytes.as_ref(),
                CACHE_BYTES,
            )?,
            upload_limit: seed.table.upload_limit.map(|located| located.value),
        })
    });
    if let (Some(bucket), None) = (&layer.bucket, &seed) {
        let problem = "there is a table [bucket] and no table [seed]; only a seed reads from a bucket";
        return Err(bad(&bucket.origin, problem.to_owned()));
    }
    let bucket = layer.bucket.map(|bucket| origins::bucket(bucket, base));
    let registrar = layer.registrar.map(|registrar| -> Result<Registrar, Bad> {
        let key = required(
            registrar.table.key,
            &registrar.origin,
            "registrar.key",
            "the file of the enrolment key",
        )?;
        Ok(Registrar {
            listen: addresses(registrar.table.listen, "registrar.listen", &["/ip4/0.0.0.0/tcp/7701"])?,
            external: addresses(registrar.table.external, "registrar.external", &[])?,
            key: key_file(absolute(key, base), "registrar.key")?,
        })
    });
    let aggregator = layer.aggregator.map(|aggregator| -> Result<Aggregator, Bad> {
        let table = aggregator.table;
        let key = required(
            table.watermark_key,
            &aggregator.origin,
            "aggregator.watermark-key",
            "the file of the watermark key",
        )?;
        Ok(Aggregator {
            http: http(table.http)?,
            names: names(table.names)?,
            watermark_key: key_file(absolute(key, base), "aggregator.watermark-key")?,
        })
    });
    Ok(Configuration {
        node,
        seed: seed.transpose()?,
        bucket: bucket.transpose()?,
        registrar: registrar.transpose()?,
        aggregator: aggregator.transpose()?,
    })
}

fn required(
    value: Option<Located<String>>,
    table: &Origin,
    setting: &str,
    meaning: &str,
) -> Result<Located<String>, Bad> {
    value.ok_or_else(|| bad(table, format!("{setting} is missing; expected {meaning}")))
}

fn bad(origin: &Origin, problem: String) -> Bad {
    Bad::Value { origin: origin.clone(), problem }
}

fn addresses(
    value: Option<Located<Vec<String>>>,
    setting: &str,
    default: &[&str],
) -> Result<Vec<Multiaddr>, Bad> {
    let value = value.unwrap_or_else(|| Located {
        value: default.iter().map(|&text| text.to_owned()).collect(),
        origin: Origin::Default,
    });
    value
        .value
        .iter()
        .map(|text| {
            let parsed = parse_address(text, setting.ends_with(".listen"));
            parsed.map_err(|problem| bad(&value.origin, format!("{setting}: {problem}")))
        })
        .collect()
}

/// Reads the multiaddress of a host and a TCP port, as settings and flags name it; `listened` where this machine listens on it.
///
/// # Errors
/// What is wrong with it and what was expected.
pub fn parse_address(text: &str, listened: bool) -> Result<Multiaddr, String> {
    let expected = match listened {
        true => "expected a multiaddress of this machine such as /ip4/0.0.0.0/tcp/7700",
        false => "expected a multiaddress such as /ip4/10.0.0.2/tcp/7700 or /dns4/hq.example/tcp/7700",
    };
    let address: Multiaddr =
        text.parse().map_err(|_| format!("\"{}\" is not an address; {expected}", shown(text)))?;
    let mut parts = address.iter();
    let host = match parts.next() {
        Some(Protocol::Ip4(_) | Protocol::Ip6(_)) => true,
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            !listened && !name.is_empty() && name.bytes().all(plain)
        }
        _ => false,
    };
    if host && matches!(parts.next(), Some(Protocol::Tcp(_))) && parts.next().is_none() {
        Ok(address)
    } else {
        Err(format!("\"{}\" is not a host and a TCP port; {expected}", shown(text)))
    }
}

fn http(value: Option<Located<String>>) -> Result<SocketAddr, Bad> {
    let Some(located) = value else { return Ok(SocketAddr::from(([127, 0, 0, 1], 7780))) };
    located.value.parse().map_err(|_| {
        let problem = format!(
            "aggregator.http: \"{}\" is not an address; expected IP:PORT such as 127.0.0.1:7780",
            shown(&located.value)
        );
        bad(&located.origin, problem)
    })
}

fn names(value: Option<Located<Vec<String>>>) -> Result<Vec<String>, Bad> {
    let Some(located) = value else { return Ok(Vec::new()) };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let is_name = |name: &String| !name.trim_end_matches('.').is_empty() && name.bytes().all(plain);
    match located.value.iter().find(|name| !is_name(name)) {
        None => Ok(located.value.iter().map(|name| name.trim_end_matches('.').to_owned()).collect()),
        Some(name) => {
            let problem = format!(
                "aggregator.names: \"{}\" is not a name; expected one without port and path, such as hq.example",
                shown(name)
            );
            Err(bad(&located.origin, problem))
        }
    }
}

fn log(value: Option<Located<String>>) -> Result<String, Bad> {
    let Some(located) = value else { return Ok("info".to_owned()) };
    let is_level = |part: &str| {
        let level = part.rsplit('=').next().unwrap_or_default();
        !level.is_empty() && level.parse::<tracing::level_filters::LevelFilter>().is_ok()
    };
    if located.value.split(',').all(is_level) {
        return Ok(located.value);
    }
    let problem = format!(
        "node.log: \"{}\" is not a log filter; expected off, error, warn, info, debug or trace, or pairs such as node::fetch=debug,info",
        shown(&located.value)
    );
    Err(bad(&located.origin, problem))
}

fn link(value: Option<Located<String>>) -> Result<Option<LinkCost>, Bad> {
    let Some(located) = value else { return Ok(None) };
    match located.value.as_str() {
        "metered" => Ok(Some(LinkCost::Metered)),
        "unmetered" => Ok(Some(LinkCost::Unmetered)),
        other => {
            let problem =
                format!("node.link: \"{}\" is not known; expected metered or unmetered", shown(other));
            Err(bad(&located.origin, problem))
        }
    }
}

fn log_format(value: Option<Located<String>>) -> Result<LogFormat, Bad> {
    match value.as_ref().map(|located| located.value.as_str()) {
        None | Some("text") => Ok(LogFormat::Text),
        Some("json") => Ok(LogFormat::Json),
        Some(other) => {
            let origin = value.as_ref().map_or(Origin::Default, |located| located.origin.clone());
            Err(bad(
                &origin,
                format!("node.log-format: \"{}\" is not a format; expected text or json", shown(other)),
            ))
        }
    }
}

#[cfg(test)]
mod tests;
