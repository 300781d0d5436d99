//! Which keys APT's own sources name for a suite: the `Signed-By` of its entry, or the machine's trusted keys.

use super::client::{Client, ClientError, IndexTarget};
use crate::verify::certificate::{BadCertificate, Certificate};
use std::path::{Path, PathBuf};

/// Why the keys of a suite are not known.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// apt cannot be asked, or a file cannot be read.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The entry is not where apt says that it is.
    #[error("{} has no entry {number} for suite {suite}", file.display())]
    NoEntry {
        /// The sources file.
        file: PathBuf,
        /// Number of the entry.
        number: usize,
        /// The suite.
        suite: String,
    },
    /// The keyring is not one.
    #[error("{what} holds no usable key")]
    Keyring {
        /// The keyring.
        what: String,
        /// The cause.
        #[source]
        cause: BadCertificate,
    },
    /// None of the keys that the entry names is there.
    #[error("none of the keys that the sources name for suite {0} is on this machine")]
    NoKey(String),
}

/// What an entry says about its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
enum SignedBy {
    /// Nothing: the machine's trusted keys.
    Default,
    /// A certificate, written into the entry.
    Embedded(String),
    /// Keyrings, and fingerprints of keys among the machine's trusted ones.
    Listed(Vec<String>),
}

/// The certificates that may sign the suite of `target`, as the machine's administrator configured.
///
/// # Errors
/// [`KeyringError`].
pub fn certificates(client: &Client, target: &IndexTarget) -> Result<Vec<Certificate>, KeyringError> {
    let (file, number) = &target.entry;
    let text = String::from_utf8_lossy(&read(file)?).into_owned();
    let is_deb822 = file.extension().is_some_and(|extension| extension == "sources");
    let signed_by = if is_deb822 { signed_by_deb822(&text, *number) } else { signed_by_line(&text, *number) };
    let signed_by = signed_by.ok_or_else(|| KeyringError::NoEntry {
        file: file.clone(),
        number: *number,
        suite: target.release.clone(),
    })?;
    let names = match signed_by {
        SignedBy::Default => return trusted(client),
        SignedBy::Embedded(armoured) => return parse("the key in the sources", armoured.as_bytes()),
        SignedBy::Listed(names) => names,
    };
    let mut found = Vec::new();
    for name in &names {
        if name.starts_with('/') {
            found.extend(parse(name, &read(Path::new(name))?)?);
        } else {
            let wanted = name.trim_end_matches('!').to_ascii_lowercase();
            found.extend(trusted(client)?.into_iter().filter(|key| key.fingerprint() == wanted));
        }
    }
    if found.is_empty() { Err(KeyringError::NoKey(target.release.clone())) } else { Ok(found) }
}

/// The machine's trusted keys; files that hold none are left out, as apt does.
fn trusted(client: &Client) -> Result<Vec<Certificate>, KeyringError> {
    let mut files = vec![PathBuf::from(client.setting("Dir::Etc::trusted/f")?)];
    if let Ok(entries) = std::fs::read_dir(client.setting("Dir::Etc::trustedparts/d")?) {
        files.extend(entries.flatten().map(|entry| entry.path()).filter(|path| {
            path.extension().is_some_and(|extension| extension == "gpg" || extension == "asc")
        }));
    }
    files.sort();
    let keyrings = files.iter().filter_map(|file| Certificate::parse_keyring(&read(file).ok()?).ok());
    Ok(keyrings.flatten().collect())
}

fn read(path: &Path) -> Result<Vec<u8>, ClientError> {
    std::fs::read(path).map_err(|cause| ClientError::Io { what: path.display().to_string(), cause })
}

fn parse(what: &str, bytes: &[u8]) -> Result<Vec<Certificate>, KeyringError> {
    let what = what.to_owned();
    Certificate::parse_keyring(bytes).map_err(|cause| KeyringError::Keyring { what, cause })
}

/// `Signed-By` of the stanza with that number in a `.sources` file (sources.list(5), "deb822-style format").
fn signed_by_deb822(text: &str, number: usize) -> Option<SignedBy> {
    let mut stanzas: Vec<Vec<&str>> = vec![Vec::new()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match stanzas.last_mut() {
            Some(stanza) if !line.trim().is_empty() => stanza.push(line),
            Some(stanza) if !stanza.is_empty() => stanzas.push(Vec::new()),
            _ => {}
        }
    }
    let stanza = stanzas.into_iter().filter(|stanza| !stanza.is_empty()).nth(number.checked_sub(1)?)?;
    let mut lines = stanza.into_iter();
    let Some(first) = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("Signed-By").then(|| value.trim())
    }) else {
        return Some(SignedBy::Default);
    };
    let more: Vec<&str> = lines.take_while(|line| line.starts_with([' ', '\t'])).map(str::trim).collect();
    if more.iter().chain([&first]).any(|line| line.starts_with("-----BEGIN PGP")) {
        let lines = [first].into_iter().chain(more).filter(|line| !line.is_empty());
        let plain: Vec<&str> = lines.map(|line| if line == "." { "" } else { line }).collect();
        return Some(SignedBy::Embedded(plain.join("\n") + "\n"));
    }
    Some(listed(&[&[first], more.as_slice()].concat().join(" ")))
}

/// `signed-by` of the line with that number in a `.list` file (sources.list(5), "one-line-style format").
fn signed_by_line(text: &str, number: usize) -> Option<SignedBy> {
    let line = text.lines().nth(number.checked_sub(1)?)?.trim();
    let options =
        line.strip_prefix("deb")?.trim_start().strip_prefix('[').and_then(|rest| rest.split(']').next());
    let value = options.unwrap_or_default().split_ascii_whitespace().find_map(|option| {
        let (name, value) = option.split_once('=')?;
        name.eq_ignore_ascii_case("signed-by").then_some(value)
    });
    Some(value.map_or(SignedBy::Default, listed))
}

fn listed(value: &str) -> SignedBy {
    let names = value.split([',', ' ', '\t']).filter(|name| !name.is_empty());
    SignedBy::Listed(names.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanzas_are_counted_as_apt_counts_them() {
        let text = "# a comment\nTypes: deb\nSuites: one\nSigned-By: /a.gpg\n\n\n# another\nTypes: deb\n\
            # inside\nSuites: two\nsigned-by:\n /b.gpg, /c.gpg\nComponents: main\n\nTypes: deb\nSigned-By:\n \
            -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abcd\n -----END PGP PUBLIC KEY BLOCK-----\n\nTypes: deb\n";
        let names = |names: &[&str]| Some(listed(&names.join(" ")));
        assert_eq!(signed_by_deb822(text, 1), names(&["/a.gpg"]));
        assert_eq!(signed_by_deb822(text, 2), names(&["/b.gpg", "/c.gpg"]));
        let key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabcd\n-----END PGP PUBLIC KEY BLOCK-----\n";
        assert_eq!(signed_by_deb822(text, 3), Some(SignedBy::Embedded(key.to_owned())));
        assert_eq!(signed_by_deb822(text, 4), Some(SignedBy::Default));
        assert_eq!(signed_by_deb822(text, 5), None);
        assert_eq!(signed_by_deb822(text, 0), None);
    }

    #[test]
    fn lines_with_and_without_options() {
        let text = "deb [arch=amd64 signed-by=/a.gpg] http://mirror.example/ suite main\n\ndeb http://x.example s m\n";
        assert_eq!(signed_by_line(text, 1), Some(listed("/a.gpg")));
        assert_eq!(signed_by_line(text, 2), None);
        assert_eq!(signed_by_line(text, 3), Some(SignedBy::Default));
    }
}
