//! Who this device is, on its disk: its key, and the membership that a registrar granted.
//!
//! Two files in the node's directory: `identity.key` ([`crate::key_file`]), and `membership`, the registrar's grant as it
//! came over the wire.

use crate::disk::{self, Readers};
use crate::key_file::{self, KeyFileError};
use protocol::codec;
use protocol::fleet::{Revoked, Services};
use protocol::identifier::FleetId;
use protocol::limits;
use protocol::membership::{Certificate, EnrolGrant, Member, Rejection, Verifier};
use protocol::signature::SigningKey;
use protocol::time::WallTime;
use protocol::trust::{Refused, Trusted};
use std::io;
use std::path::{Path, PathBuf};

/// Name of the key file in the node's directory.
pub const IDENTITY_FILE: &str = "identity.key";
/// Name of the membership file in the node's directory.
pub const MEMBERSHIP_FILE: &str = "membership";

/// Largest membership file: a root metadata file, a certificate and the services.
const MEMBERSHIP_BYTES: usize = limits::METADATA_BYTES + (64 << 10);

/// A device that has joined.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The device's key.
    pub identity: SigningKey,
    /// What the certificate says of it.
    pub member: Member,
    /// The certificate.
    pub certificate: Certificate,
    /// The fleet's first root metadata, whose digest is the fleet's identifier.
    pub root: Vec<u8>,
    /// The services as the registrar knew them: believed until the signed file arrives.
    pub services: Services,
}

/// Why a device's identity or membership is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// It has not joined.
    #[error("this device has not joined a fleet ({0} does not exist); run `patchmesh join KEY`")]
    NotJoined(PathBuf),
    /// It has joined already.
    #[error(
        "this device has joined fleet {fleet} already; if it is to start anew, stop its node and remove {directory} first"
    )]
    JoinedAlready {
        /// The fleet.
        fleet: FleetId,
        /// The node's directory.
        directory: PathBuf,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {path}; check space and permissions")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file that is damaged.
    #[error("{0} is damaged; remove it and run `patchmesh join KEY` again")]
    Damaged(PathBuf),
    /// A private key that cannot be used or made.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The registrar gave a root that is not that of the fleet in the activation key.
    #[error("the registrar's root metadata is not that of the fleet")]
    OtherRoot(#[source] Refused),
    /// The registrar gave a certificate that nobody would accept.
    #[error("the certificate that the registrar gave is not usable")]
    Certificate(#[source] Rejection),
}

/// The files of one node's directory.
#[derive(Clone, Debug)]
pub struct Files {
    directory: PathBuf,
}

impl Files {
    /// The files in `directory`, which may not exist yet.
    pub fn new(directory: &Path) -> Files {
        Files { directory: directory.to_owned() }
    }

    /// The device's key; made, and its directory with it, when there is none yet.
    ///
    /// # Errors
    /// [`MembershipError`]; an existing file is never overwritten.
    pub fn identity(&self) -> Result<SigningKey, MembershipError> {
        let path = self.directory.join(IDENTITY_FILE);
        match self.read_identity() {
            Err(MembershipError::NotJoined(_)) => Ok(key_file::create(&path)?),
            other => other,
        }
    }

    /// The device's key; a damaged one can only be made anew, by joining again.
    fn read_identity(&self) -> Result<SigningKey, MembershipError> {
        key_file::read(&self.directory.join(IDENTITY_FILE)).map_err(|error| match error {
            KeyFileError::Missing(path) => MembershipError::NotJoined(path),
            KeyFileError::Malformed { path, .. } => MembershipError::Damaged(path),
            error => error.into(),
        })
    }

    /// Keeps what a registrar granted, once it is certain that it makes `identity` a member of `fleet`.
    ///
    /// # Errors
    /// [`MembershipError`]; what was there before stays.
    pub fn keep(
        &self,
        grant: &EnrolGrant,
        identity: &SigningKey,
        fleet: FleetId,
        now: WallTime,
    ) -> Result<Joined, MembershipError> {
        let joined = check(grant.clone(), identity.clone(), fleet)?;
        let verifier = Verifier::new(fleet, &grant.services, &Revoked::default());
        verifier.verify(&grant.certificate, identity.device(), now).map_err(MembershipError::Certificate)?;
        let path = self.directory.join(MEMBERSHIP_FILE);
        let kept = disk::make_private_directory(&self.directory)
            .and_then(|()| disk::replace(&path, &codec::encode(grant), Readers::Owner));
        kept.map_err(|source| MembershipError::File { action: "write", path, source })?;
        Ok(joined)
    }

    /// The membership of this device. Whether it still counts is for the peers to say: the node starts with an expired
    /// one too, so that it can renew it.
    ///
    /// # Errors
    /// [`MembershipError::NotJoined`] before `patchmesh join`; [`MembershipError::Damaged`].
    pub fn load(&self) -> Result<Joined, MembershipError> {
        let path = self.directory.join(MEMBERSHIP_FILE);
        let damaged = || MembershipError::Damaged(path.clone());
        let bytes = disk::read_bounded(&path, MEMBERSHIP_BYTES as u64)
            .map_err(|source| MembershipError::File { action: "read", path: path.clone(), source })?
            .ok_or_else(|| MembershipError::NotJoined(path.clone()))?;
        let identity = self.read_identity()?;
        let grant: EnrolGrant = codec::decode::<_, MEMBERSHIP_BYTES>(&bytes).map_err(|_| damaged())?;
        let fleet = grant.certificate.claims().map_err(|_| damaged())?.fleet;
        check(grant, identity, fleet).map_err(|_| damaged())
    }

    /// Refuses where the device is a member of some fleet.
    ///
    /// # Errors
    /// [`MembershipError::JoinedAlready`], and [`MembershipError`] when that cannot be told.
    pub fn refuse_joined(&self) -> Result<(), MembershipError> {
        match self.load() {
            Ok(joined) => Err(MembershipError::JoinedAlready {
                fleet: joined.member.fleet,
                directory: self.directory.clone(),
            }),
            Err(MembershipError::NotJoined(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// That certificate, key, root and fleet belong together.
fn check(grant: EnrolGrant, identity: SigningKey, fleet: FleetId) -> Result<Joined, MembershipError> {
    Trusted::from_root(&grant.root, fleet).map_err(MembershipError::OtherRoot)?;
    let certificate = |rejection| MembershipError::Certificate(rejection);
    let member = grant.certificate.claims().map_err(|_| certificate(Rejection::Malformed))?;
    if member.fleet != fleet {
        return Err(certificate(Rejection::OtherFleet));
    }
    if member.device != identity.device() {
        return Err(certificate(Rejection::OtherDevice));
    }
    let EnrolGrant { certificate, root, services } = grant;
    Ok(Joined { identity, member, certificate, root, services })
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::digest::Sha256;
    use protocol::fleet::EnrolmentKey;
    use protocol::identifier::{HostName, SiteName};
    use protocol::membership::Class;
    use protocol::system::{Family, System};
    use protocol::trust::Key;
    use protocol::trust::publish::{TopKeys, first_root};
    use std::os::unix::fs::MetadataExt as _;

    const NOW: WallTime = WallTime::from_unix_seconds(1_800_000_000);

    fn grant(files: &Files, issuer: &SigningKey) -> (EnrolGrant, FleetId, SigningKey) {
        let key = SigningKey::from_seed(&[9; 32]);
        let root = root(&key);
        let fleet = FleetId::from_bytes(*Sha256::of(&root).as_bytes());
        let identity = files.identity().expect("identity");
        let member = Member {
            fleet,
            device: identity.device(),
            site: SiteName::new("utrecht").expect("site"),
            class: Class::Workstation,
            system: System {
                family: Family::Linux,
                distribution: "debian".to_owned(),
                release: "12".to_owned(),
                architecture: "amd64".to_owned(),
            },
            host: HostName::new("desk").expect("host"),
            issued: NOW,
            expires: NOW.plus_days(1),
        };
        let services = Services {
            enrolment_keys: vec![EnrolmentKey { public: issuer.public(), valid_until: None }],
            ..Services::default()
        };
        let certificate = Certificate::issue(&member, issuer);
        (EnrolGrant { certificate, root, services }, fleet, identity)
    }

    fn root(key: &SigningKey) -> Vec<u8> {
        let public = || vec![key.public()];
        let keys = TopKeys { root: public(), targets: public(), snapshot: public(), timestamp: public() };
        let unsigned = first_root(&keys, NOW);
        let signature = key.sign(protocol::signature::Purpose::Metadata, &unsigned.message());
        unsigned.finish(&[(Key::ed25519(key.public()).id(), signature)])
    }

    // proves N2
    #[test]
    fn a_grant_is_kept_when_it_makes_this_device_a_member() {
        let directory = tempfile::tempdir().expect("directory");
        let files = Files::new(&directory.path().join("node"));
        assert!(matches!(files.load(), Err(MembershipError::NotJoined(_))));
        let issuer = SigningKey::from_seed(&[1; 32]);
        let (grant, fleet, identity) = grant(&files, &issuer);
        let keep = |grant: &EnrolGrant, fleet| files.keep(grant, &identity, fleet, NOW);
        let other = FleetId::from_bytes([3; 32]);
        assert!(matches!(keep(&grant, other), Err(MembershipError::OtherRoot(_))));
        let stranger = EnrolGrant { services: Services::default(), ..grant.clone() };
        assert!(matches!(
            keep(&stranger, fleet),
            Err(MembershipError::Certificate(Rejection::UnknownIssuer))
        ));
        files.refuse_joined().expect("nothing was kept");
        keep(&grant, fleet).expect("kept");
        let joined = files.load().expect("joined");
        assert_eq!(joined.member.device, identity.device());
        assert_eq!(joined.certificate, grant.certificate);
        assert!(matches!(files.refuse_joined(), Err(MembershipError::JoinedAlready { .. })));
    }

    #[test]
    fn damage_and_open_permissions_are_noticed() {
        let directory = tempfile::tempdir().expect("directory");
        let files = Files::new(directory.path());
        let (grant, fleet, identity) = grant(&files, &SigningKey::from_seed(&[1; 32]));
        files.keep(&grant, &identity, fleet, NOW).expect("kept");
        assert_eq!(files.identity().expect("the same again").device(), identity.device());
        let key = directory.path().join(IDENTITY_FILE);
        assert_eq!(std::fs::metadata(&key).expect("key").mode() & 0o777, 0o600);
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o640)).expect("chmod");
        assert!(matches!(files.load(), Err(MembershipError::Key(KeyFileError::TooOpen(_)))));
        std::fs::remove_file(&key).expect("remove");
        assert!(matches!(files.load(), Err(MembershipError::NotJoined(_))));
        files.identity().expect("a new key");
        assert!(
            matches!(files.load(), Err(MembershipError::Damaged(_))),
            "the certificate is another device's"
        );
        std::fs::write(directory.path().join(MEMBERSHIP_FILE), [0xff; 9]).expect("write");
        assert!(matches!(files.load(), Err(MembershipError::Damaged(_))));
    }
}
