//! Packages that the demo builds itself: an unsigned one always, signed ones where no real upgrades are to be had.

use crate::exit::{Exit, Failure};
use anyhow::Context as _;
use node::deploy::root::{Blueprint, build_deb};
use protocol::digest::Sha256;
use protocol::signature::{PublicKey, Purpose, SigningKey};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Vendor of the packages that the demo builds.
pub const VENDOR: &str = "acme";

/// Two versions of a package.
#[derive(Debug)]
pub struct Pair {
    /// What is installed.
    pub older: PathBuf,
    /// What is to be installed.
    pub newer: PathBuf,
}

/// Packages built on the spot.
#[derive(Debug)]
pub struct Built {
    /// Older versions.
    pub older: Vec<PathBuf>,
    /// Newer versions.
    pub newer: Vec<PathBuf>,
    /// A detached signature for each newer version.
    pub signatures: Vec<PathBuf>,
    /// The vendor's key.
    pub key: PublicKey,
}

/// Builds the package that nobody signs.
pub fn build_unsigned(directory: &Path) -> Result<Pair, Failure> {
    build("acme-tool", 40_000, directory)
}

/// Builds and signs upgrades about as large as real ones.
pub fn build_upgrades(directory: &Path) -> Result<Built, Failure> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|error| Failure::new(Exit::Failed, format!("no random numbers for a key: {error}")))?;
    let key = SigningKey::from_seed(&seed);
    let mut built = Built { older: Vec::new(), newer: Vec::new(), signatures: Vec::new(), key: key.public() };
    for (name, bytes) in [("acme-library", 2_000_000), ("acme-headers", 2_200_000), ("acme-codec", 200_000)] {
        let pair = build(name, bytes, directory)?;
        let content =
            std::fs::read(&pair.newer).with_context(|| format!("cannot read {}", pair.newer.display()))?;
        let signature = key.sign(Purpose::Artifact, Sha256::of(&content).as_bytes());
        let path = pair.newer.with_extension("sig");
        std::fs::write(&path, signature.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
        built.older.push(pair.older);
        built.newer.push(pair.newer);
        built.signatures.push(path);
    }
    Ok(built)
}

fn build(package: &str, bytes: usize, directory: &Path) -> Result<Pair, Failure> {
    let version = |version: &str, seed: u64| {
        let blueprint = Blueprint {
            package: package.to_owned(),
            version: version.to_owned(),
            architecture: "all".to_owned(),
            files: BTreeMap::from([(format!("usr/share/{package}/data"), noise(bytes, seed))]),
            ..Blueprint::default()
        };
        build_deb(&blueprint, directory).map_err(|error| Failure::of(Exit::Failed, &error))
    };
    Ok(Pair { older: version("1.0", 1)?, newer: version("2.0", 2)? })
}

/// Bytes that do not compress, the same for the same seed (xorshift64*, Vigna 2016).
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_be_bytes()
    };
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        noise.extend_from_slice(&next());
    }
    noise.truncate(bytes);
    noise
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_upgrades_are_signed_and_do_not_compress() {
        let directory = tempfile::tempdir().expect("directory");
        let built = build_upgrades(directory.path()).expect("this test needs dpkg-deb");
        assert_eq!((built.older.len(), built.newer.len(), built.signatures.len()), (3, 3, 3));
        let content = std::fs::read(&built.newer[0]).expect("package");
        assert!(content.len() > 2_000_000, "{} bytes", content.len());
        let signature = std::fs::read(&built.signatures[0]).expect("signature");
        let signature = protocol::signature::Signature::from_bytes(signature.try_into().expect("64 bytes"));
        built.key.verify(Purpose::Artifact, Sha256::of(&content).as_bytes(), &signature).expect("good");
    }
}
