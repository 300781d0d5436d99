//! The second oracle: `tough`, a client of the same specification in Rust, used as its documentation shows.

use super::lab::Answer;
use protocol::digest::Sha256;
use protocol::limits::{METADATA_BYTES, ROOT_ROTATIONS, TIMESTAMP_BYTES};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tough::{FilesystemTransport, IntoVec as _, Limits, RepositoryLoader, TargetName};
use url::Url;

/// What tough says about a repository; `state` is where it remembers what it trusted.
pub fn refresh(root: &Path, state: &Path, repository: &Path, wanted: &[&str]) -> Answer {
    let root = fs::read(root).expect("root");
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    match runtime.block_on(try_refresh(&root, state, repository, wanted)) {
        Ok(targets) => Answer::Trusted(targets),
        Err(error) => Answer::Refused(error.to_string()),
    }
}

async fn try_refresh(
    root: &[u8],
    state: &Path,
    repository: &Path,
    wanted: &[&str],
) -> Result<BTreeMap<String, String>, tough::error::Error> {
    let renamed = rename_targets(&repository.join("targets"));
    let [metadata, targets] = [&repository.join("metadata"), renamed.path()]
        .map(|path| Url::from_directory_path(path).expect("an absolute path"));
    let limits = Limits {
        max_root_size: METADATA_BYTES as u64,
        max_targets_size: METADATA_BYTES as u64,
        max_timestamp_size: TIMESTAMP_BYTES as u64,
        max_snapshot_size: METADATA_BYTES as u64,
        max_root_updates: ROOT_ROTATIONS,
    };
    let loader = RepositoryLoader::new(&root, metadata, targets);
    let loader = loader.transport(FilesystemTransport).limits(limits).datastore(state);
    let repository = loader.load().await?;
    let mut found = BTreeMap::new();
    for path in wanted {
        if let Some(stream) = repository.read_target(&TargetName::new(*path)?).await? {
            found.insert((*path).to_owned(), Sha256::of(&stream.into_vec().await?).to_string());
        }
    }
    Ok(found)
}

/// A copy of `targets` under the names that tough asks for: it puts the digest in front of the whole path
/// (`DIGEST.policy/fleet.toml`), where the specification (5.7.3) puts it in front of the file's name
/// (`policy/DIGEST.fleet.toml`).
fn rename_targets(targets: &Path) -> tempfile::TempDir {
    let renamed = tempfile::tempdir().expect("directory");
    let mut directories = vec![targets.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("targets").flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let relative = path.strip_prefix(targets).expect("below targets");
            let name = relative.file_name().and_then(|name| name.to_str()).expect("a name");
            let (digest, name) = name.split_once('.').expect("a digest in front");
            let plain = relative.with_file_name(name);
            let place = renamed.path().join(format!("{digest}.{}", plain.display()));
            fs::create_dir_all(place.parent().expect("directory")).expect("directory");
            fs::copy(&path, place).expect("copy");
        }
    }
    renamed
}
