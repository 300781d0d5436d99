//! Single files: a package built on the spot, signed with a detached ed25519 signature, or not at all.

use super::{now, this_machine};
use anyhow::{Context as _, Result, ensure};
use node::import::file::{FileError, FileRequest, Signing, import};
use node::verify::package_file::{read, verify_package_file};
use protocol::digest::Sha256;
use protocol::fleet::{KeyMaterial, Vendor, VendorKey, Vendors};
use protocol::identifier::VendorName;
use protocol::manifest::Evidence;
use protocol::signature::{Purpose, SigningKey};
use protocol::verify::{Verdict, verify_ed25519};
use std::path::{Path, PathBuf};
use std::process::Command;

fn build(directory: &Path, package: &str) -> Result<PathBuf> {
    let root = directory.join(package);
    std::fs::create_dir_all(root.join("DEBIAN"))?;
    let control = format!(
        "Package: {package}\nVersion: 1:2.0-3\nArchitecture: all\nMaintainer: Vendor <vendor@vendor.example>\n\
         Description: a tool\n of several lines\n"
    );
    std::fs::write(root.join("DEBIAN/control"), control)?;
    std::fs::write(root.join("file"), b"content")?;
    let deb = directory.join(format!("{package}_2.0-3_all.deb"));
    let status = Command::new("dpkg-deb")
        .args(["--root-owner-group", "--build"])
        .args([&root, &deb])
        .status()
        .context("dpkg-deb is needed for this test")?;
    ensure!(status.success());
    Ok(deb)
}

fn vendors(key: &SigningKey) -> Result<Vendors> {
    let material = KeyMaterial::Ed25519 { public: key.public() };
    let key = VendorKey { material, valid_from: None, valid_until: None, revoked: false };
    Ok(Vendors { vendors: vec![Vendor { name: VendorName::new("acme")?, keys: vec![key] }] })
}

// proves N8
#[test]
fn signed_files_come_in_and_others_do_not() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let deb = build(directory.path(), "tool")?;
    let key = SigningKey::from_seed(&[3; 32]);
    let bytes = std::fs::read(&deb)?;
    let signature = key.sign(Purpose::Artifact, Sha256::of(&bytes).as_bytes());
    let file = directory.path().join("tool.sig");
    let request = |signing| -> Result<FileRequest> {
        Ok(FileRequest {
            path: deb.clone(),
            vendor: VendorName::new("acme")?,
            signing,
            system: this_machine()?,
        })
    };
    let (vendors, now) = (vendors(&key)?, now()?);
    for form in [signature.as_bytes().to_vec(), format!("{signature}\n").into_bytes()] {
        std::fs::write(&file, form)?;
        let imported = import(&request(Signing::Detached(file.clone()))?, &vendors, now)?;
        let manifest = &imported.manifests[0];
        ensure!(manifest.patch.as_str() == "acme/tool=1:2.0-3" && imported.warnings.is_empty());
        ensure!(manifest.targets[0].architecture.is_none(), "for all architectures");
        let proof = verify_ed25519(manifest, &manifest.artifacts[0], &vendors, now)?;
        ensure!(Verdict::of(proof).content() == imported.files[0].0);
        verify_package_file(&deb, manifest)?;
        let other = build(directory.path(), "other")?;
        let refused = verify_package_file(&other, manifest).map_err(|refusal| refusal.code());
        ensure!(refused == Err("evidence-mismatch"), "{refused:?}");
    }

    let unsigned = import(&request(Signing::Unsigned)?, &vendors, now)?;
    ensure!(unsigned.manifests[0].artifacts[0].evidence == Evidence::None {} && unsigned.warnings.len() == 1);

    let code = |signing| -> Result<&'static str> {
        match import(&request(signing)?, &vendors, now) {
            Err(FileError::Refused { refusal, .. }) => Ok(refusal.code()),
            Err(other) => Err(other.into()),
            Ok(_) => Ok("good"),
        }
    };
    let stranger = SigningKey::from_seed(&[4; 32]).sign(Purpose::Artifact, Sha256::of(&bytes).as_bytes());
    std::fs::write(&file, stranger.as_bytes())?;
    ensure!(code(Signing::Detached(file.clone()))? == "bad-vendor-signature");
    std::fs::write(&file, b"not a signature")?;
    let not_one = import(&request(Signing::Detached(file))?, &vendors, now);
    ensure!(matches!(not_one, Err(FileError::Signature(_))));
    Ok(())
}

#[test]
fn damaged_packages_are_named() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let deb = build(directory.path(), "tool")?;
    let good = read(&deb)?;
    ensure!(
        (good.package.as_str(), good.version.as_str(), good.architecture.as_str())
            == ("tool", "1:2.0-3", "all")
    );
    let bytes = std::fs::read(&deb)?;
    for end in [0, 8, 70, 150] {
        std::fs::write(&deb, &bytes[..end])?;
        ensure!(read(&deb).is_err(), "{end}");
    }
    ensure!(read(&directory.path().join("--version")).is_err());
    Ok(())
}
