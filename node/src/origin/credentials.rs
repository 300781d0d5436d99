//! The key to a bucket: from the environment, or from a file that nobody else can read; never in a log.

use crate::key_file::{KeyFileError, read_guarded};
use std::fmt;
use std::path::{Path, PathBuf};

/// Names under which tools of every kind look for them in the environment, and in their files in lower case.
const NAMES: [&str; 3] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// A file without them.
    #[error("{0} holds no credentials; expected lines aws_access_key_id = … and aws_secret_access_key = …")]
    Empty(PathBuf),
    /// Nowhere.
    #[error(
        "there are no credentials for the bucket; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for the node, or name a file with bucket.credentials"
    )]
    Nowhere,
    /// One without the other.
    #[error(
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together, and only one of them is set; set both"
    )]
    Half,
}

/// An access key.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub(super) access_key_id: String,
    pub(super) secret_access_key: String,
    pub(super) session_token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

impl Credentials {
    /// Those of the file, or where none is named those of the environment.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub fn find(
        file: Option<&Path>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Credentials, CredentialsError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let Some(path) = file else {
            return match (set(NAMES[0]), set(NAMES[1])) {
                (Some(access_key_id), Some(secret_access_key)) => {
                    Ok(Credentials { access_key_id, secret_access_key, session_token: set(NAMES[2]) })
                }
                (None, None) => Err(CredentialsError::Nowhere),
                _ => Err(CredentialsError::Half),
            };
        };
        let bytes = read_guarded(path)?;
        parse(&String::from_utf8_lossy(&bytes)).ok_or_else(|| CredentialsError::Empty(path.to_owned()))
    }
}

/// Reads the form that the tools of storage vendors write: lines `name = value`, in a section `[default]` or in none.
fn parse(text: &str) -> Option<Credentials> {
    let mut values: [Option<String>; 3] = Default::default();
    let mut ours = true;
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            ours = section.trim_end_matches(']').trim() == "default";
        } else if ours
            && !line.starts_with(['#', ';'])
            && let Some((name, value)) = line.split_once('=')
            && let Some(at) = NAMES.iter().position(|known| name.trim().eq_ignore_ascii_case(known))
        {
            values[at] = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
        }
    }
    let [access_key_id, secret_access_key, session_token] = values;
    Some(Credentials { access_key_id: access_key_id?, secret_access_key: secret_access_key?, session_token })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn of(id: &str, secret: &str, token: Option<&str>) -> Credentials {
        Credentials {
            access_key_id: id.to_owned(),
            secret_access_key: secret.to_owned(),
            session_token: token.map(str::to_owned),
        }
    }

    #[test]
    fn the_environment_is_asked_when_no_file_is_named() {
        let find = |pairs: &[(&str, &str)]| {
            let value = |name: &str| {
                pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            };
            Credentials::find(None, value)
        };
        let both = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret")];
        assert_eq!(find(&both).expect("both"), of("id", "secret", None));
        assert!(matches!(find(&both[..1]), Err(CredentialsError::Half)));
        assert!(matches!(find(&[]), Err(CredentialsError::Nowhere)));
        assert!(matches!(find(&[("AWS_ACCESS_KEY_ID", "")]), Err(CredentialsError::Nowhere)));
    }

    // proves X7: a key that others could read is not used, and none is ever shown
    #[test]
    fn a_file_is_for_its_owner_alone_and_nothing_shows_what_is_in_it() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("credentials");
        let mode =
            |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode");
        let text = "[other]\naws_access_key_id = no\n[default]\n# a note\naws_access_key_id = id\n aws_secret_access_key=s=t\nAWS_SESSION_TOKEN = token\n";
        std::fs::write(&path, text).expect("write");
        mode(0o644);
        let found = Credentials::find(Some(&path), |_| None);
        assert!(found.expect_err("readable").to_string().contains("chmod 600"));
        mode(0o600);
        let found = Credentials::find(Some(&path), |_| None).expect("credentials");
        assert_eq!(found, of("id", "s=t", Some("token")));
        assert_eq!(format!("{found:?}"), "Credentials(…)");
        std::fs::write(&path, "[default]\naws_access_key_id = id\n").expect("write");
        assert!(matches!(Credentials::find(Some(&path), |_| None), Err(CredentialsError::Empty(_))));
    }
}
