//! Settings that name a place on the disk.

use super::layer::Located;
use super::{Bad, Origin, SOCKET_PATH_BYTES, bad};
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};

pub(super) fn path(value: Option<Located<String>>, base: &Path, default: &str) -> Located<PathBuf> {
    let value = value.unwrap_or(Located { value: default.to_owned(), origin: Origin::Default });
    absolute(value, base)
}

/// What stands in the file counts from its directory, what was typed or exported from where that happened.
pub(super) fn absolute(value: Located<String>, base: &Path) -> Located<PathBuf> {
    let path = PathBuf::from(value.value);
    let path = match &value.origin {
        Origin::Flag(_) | Origin::Environment(_) => std::path::absolute(&path).unwrap_or(path),
        Origin::File(..) | Origin::WholeFile(_) | Origin::Default => base.join(path),
    };
    Located { value: path, origin: value.origin }
}

/// Whether what lies there is as it should be; a place that this user may not look at says so.
fn look(path: &Located<PathBuf>, setting: &str, is_right: impl Fn(&Metadata) -> bool) -> Result<bool, Bad> {
    match std::fs::metadata(&path.value) {
        Ok(found) => Ok(is_right(&found)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let shown = path.value.display();
            let problem = format!(
                "{setting} = \"{shown}\" cannot be looked at by this user; run this as root or as the node's user"
            );
            Err(bad(&path.origin, problem))
        }
        Err(_) => Ok(false),
    }
}

pub(super) fn directory(path: Located<PathBuf>, setting: &str, meaning: &str) -> Result<PathBuf, Bad> {
    if look(&path, setting, Metadata::is_dir)? {
        return Ok(path.value);
    }
    let shown = path.value.display();
    Err(bad(&path.origin, format!("{setting} = \"{shown}\" is not a directory; expected {meaning}")))
}

pub(super) fn key_file(path: Located<PathBuf>, setting: &str) -> Result<PathBuf, Bad> {
    if look(&path, setting, Metadata::is_file)? {
        return Ok(path.value);
    }
    let shown = path.value.display();
    Err(bad(
        &path.origin,
        format!(
            "{setting} = \"{shown}\" does not exist; expected a key file, as `patchmesh fleet init` writes it"
        ),
    ))
}

pub(super) fn socket(path: Located<PathBuf>) -> Result<PathBuf, Bad> {
    let length = path.value.as_os_str().len();
    if length <= SOCKET_PATH_BYTES {
        return Ok(path.value);
    }
    let problem = format!(
        "node.control-socket has a path of {length} bytes; expected at most {SOCKET_PATH_BYTES}, which is all that Unix sockets allow"
    );
    Err(bad(&path.origin, problem))
}
