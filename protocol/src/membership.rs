//! Who belongs to the fleet: activation keys, membership certificates, and the check that every connection makes.

use crate::codec::{self, DecodeError};
use crate::digest::Sha256;
use crate::fleet::{EnrolmentKey, Revoked, Services};
use crate::identifier::{DeviceId, FleetId, HostName, SiteName};
use crate::limits;
use crate::signature::{Purpose, Signature, SigningKey};
use crate::system::System;
use crate::time::WallTime;
use serde::{Deserialize, Serialize};

/// Class of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// A machine that serves others.
    Server,
    /// A machine that a person sits at.
    Workstation,
}

impl std::fmt::Display for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Class::Server => "server",
            Class::Workstation => "workstation",
        })
    }
}

/// What a membership certificate states about a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The fleet.
    pub fleet: FleetId,
    /// The device; the certificate is worth nothing on a connection of another.
    pub device: DeviceId,
    /// Home site.
    pub site: SiteName,
    /// Class.
    pub class: Class,
    /// Operating system, as the device stated it when it enrolled.
    pub system: System,
    /// Host name, for people.
    pub host: HostName,
    /// When the certificate was issued.
    pub issued: WallTime,
    /// When it stops to count.
    pub expires: WallTime,
}

/// A membership certificate as it travels: nothing in it is believed before [`Verifier::verify`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    member: Vec<u8>,
    signature: Signature,
}

impl Certificate {
    /// Issues a certificate with an enrolment key.
    pub fn issue(member: &Member, key: &SigningKey) -> Certificate {
        let member = codec::encode(member);
        let signature = key.sign(Purpose::Membership, &member);
        Certificate { member, signature }
    }

    /// Encodes it for the wire or a file.
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Decodes it; that it decodes proves nothing.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that is not a certificate.
    pub fn from_bytes(bytes: &[u8]) -> Result<Certificate, DecodeError> {
        codec::decode::<_, { limits::CERTIFICATE_BYTES }>(bytes)
    }

    /// What the certificate claims, unverified: for a device that reads its own.
    ///
    /// # Errors
    /// [`DecodeError`] when the inner part is malformed.
    pub fn claims(&self) -> Result<Member, DecodeError> {
        codec::decode::<_, { limits::CERTIFICATE_BYTES }>(&self.member)
    }
}

/// Why a connection's membership was refused. The code goes to both ends and into the counters.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, thiserror::Error,
)]
#[serde(rename_all = "kebab-case")]
pub enum Rejection {
    /// The bytes are not a certificate.
    #[error("the membership certificate is malformed")]
    Malformed,
    /// Another fleet.
    #[error("the certificate is for another fleet")]
    OtherFleet,
    /// The certificate's key is not the connection's identity.
    #[error("the certificate belongs to another device")]
    OtherDevice,
    /// No enrolment key that we trust signed it.
    #[error("no trusted enrolment key signed the certificate")]
    UnknownIssuer,
    /// It has expired by our clock.
    #[error("the certificate has expired; run `patchmesh join` again or check the clock")]
    Expired,
    /// Issued more than a day in the future by our clock.
    #[error("the certificate is not valid yet; check the clock")]
    NotYetValid,
    /// The device was revoked.
    #[error("the device was revoked")]
    Revoked,
    /// No certificate came in time.
    #[error("no membership certificate came in time")]
    Silent,
}

/// Clock difference that is forgiven when a certificate is younger than our clock, in seconds.
pub const CLOCK_TOLERANCE_SECONDS: u64 = 86_400;

/// Checks certificates against what the fleet's metadata says.
#[derive(Clone, Debug)]
pub struct Verifier {
    fleet: FleetId,
    issuers: Vec<EnrolmentKey>,
    revoked: Revoked,
}

impl Verifier {
    /// A verifier for one fleet with its current services and revocations.
    pub fn new(fleet: FleetId, services: &Services, revoked: &Revoked) -> Verifier {
        Verifier { fleet, issuers: services.enrolment_keys.clone(), revoked: revoked.clone() }
    }

    /// The fleet whose members it accepts.
    pub fn fleet(&self) -> FleetId {
        self.fleet
    }

    /// Checks that `certificate` makes the device at the other end of a connection a current member.
    ///
    /// # Errors
    /// [`Rejection`] with the first rule that fails.
    pub fn verify(
        &self,
        certificate: &Certificate,
        device: DeviceId,
        now: WallTime,
    ) -> Result<Member, Rejection> {
        let member = certificate.claims().map_err(|_| Rejection::Malformed)?;
        if member.fleet != self.fleet {
            return Err(Rejection::OtherFleet);
        }
        if member.device != device {
            return Err(Rejection::OtherDevice);
        }
        let signed = self.issuers.iter().any(|issuer| {
            issuer.valid_until.is_none_or(|until| now < until)
                && issuer
                    .public
                    .verify(Purpose::Membership, &certificate.member, &certificate.signature)
                    .is_ok()
        });
        if !signed {
            return Err(Rejection::UnknownIssuer);
        }
        self.check_current(&member, now)?;
        Ok(member)
    }

    /// Asks again for a member that was verified before: has it expired or been revoked since?
    ///
    /// # Errors
    /// [`Rejection::Expired`], [`Rejection::NotYetValid`] or [`Rejection::Revoked`].
    pub fn check_current(&self, member: &Member, now: WallTime) -> Result<(), Rejection> {
        if self.revoked.contains(member.device)
            && !crate::mutant::mutated(crate::mutant::Mutant::IgnoreRevoked)
        {
            return Err(Rejection::Revoked);
        }
        if now >= member.expires {
            return Err(Rejection::Expired);
        }
        if member.issued.unix_seconds() > now.unix_seconds().saturating_add(CLOCK_TOLERANCE_SECONDS) {
            return Err(Rejection::NotYetValid);
        }
        Ok(())
    }
}

/// What an administrator hands to whoever sets up a device: everything that joining needs, in one line of text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivationKey {
    /// The fleet, which pins the root metadata.
    pub fleet: FleetId,
    /// The registrar's identity.
    pub registrar: DeviceId,
    /// The registrar's enrolment addresses, as multiaddresses.
    pub addresses: Vec<String>,
    /// The secret; the registrar knows its hash only.
    pub secret: [u8; 16],
}

/// Text that is not an activation key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadActivationKey {
    /// Does not start as one.
    #[error(
        "not an activation key: it starts with \"{ACTIVATION_PREFIX}\"; run `patchmesh token create` to get one"
    )]
    Prefix,
    /// Damaged on the way.
    #[error(
        "the activation key is incomplete or mistyped; copy the whole line that `patchmesh token create` printed"
    )]
    Damaged,
}

/// How every activation key begins.
pub const ACTIVATION_PREFIX: &str = "patchmesh1-";

impl ActivationKey {
    /// The registrar's name for the secret: its SHA-256.
    pub fn secret_hash(&self) -> Sha256 {
        Sha256::of(&self.secret)
    }

    /// Reads the line that `patchmesh token create` printed.
    ///
    /// # Errors
    /// [`BadActivationKey`] says what to do about it.
    pub fn parse(text: &str) -> Result<ActivationKey, BadActivationKey> {
        let body = text.trim().strip_prefix(ACTIVATION_PREFIX).ok_or(BadActivationKey::Prefix)?;
        let bytes = data_encoding::BASE32_NOPAD
            .decode(body.to_ascii_uppercase().as_bytes())
            .map_err(|_| BadActivationKey::Damaged)?;
        let split = bytes.len().checked_sub(4).ok_or(BadActivationKey::Damaged)?;
        let (payload, check) = bytes.split_at(split);
        if Sha256::of(payload).as_bytes()[..4] != *check {
            return Err(BadActivationKey::Damaged);
        }
        codec::decode::<_, 4096>(payload).map_err(|_| BadActivationKey::Damaged)
    }
}

impl std::fmt::Display for ActivationKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut bytes = codec::encode(self);
        let check = Sha256::of(&bytes);
        bytes.extend_from_slice(&check.as_bytes()[..4]);
        write!(f, "{ACTIVATION_PREFIX}{}", data_encoding::BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }
}

/// What a registrar keeps of one activation key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// SHA-256 of the secret.
    pub secret_hash: Sha256,
    /// Home site of the devices that it enrols.
    pub site: SiteName,
    /// Class of the devices that it enrols.
    pub class: Class,
    /// Uses left.
    pub uses_left: u32,
    /// Not accepted from then on.
    pub expires: WallTime,
}

/// What a device asks of a registrar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// The secret of the activation key.
    pub secret: [u8; 16],
    /// The device's host name.
    pub host: HostName,
    /// The device's operating system.
    pub system: System,
}

/// What a registrar answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolGrant {
    /// The membership certificate.
    pub certificate: Certificate,
    /// The fleet's first root metadata; the device checks it against the fleet identifier.
    pub root: Vec<u8>,
    /// The fleet's services as the registrar knows them. The activation key pins the registrar, so they are believed
    /// until the signed file arrives, and not a moment longer.
    pub services: Services,
}

/// Why a registrar refused. The same code for a wrong and for an unknown secret: a stranger learns nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum EnrolRefusal {
    /// No token with that secret, or it has expired, or it is used up.
    #[error("the activation key is not valid (any more); ask for a new one from `patchmesh token create`")]
    Token,
    /// The device was revoked.
    #[error("this device was revoked; ask the fleet's administrator")]
    Revoked,
    /// The registrar cannot store the enrolment now.
    #[error("the registrar cannot enrol devices at the moment; try again later")]
    Busy,
}

/// How long a membership certificate counts, in days.
pub const CERTIFICATE_DAYS: u32 = 365;

impl Token {
    /// Spends one use for a device and returns what its certificate says.
    ///
    /// # Errors
    /// [`EnrolRefusal::Token`] when the token has expired or is used up; nothing is spent then.
    pub fn enrol(
        &mut self,
        fleet: FleetId,
        device: DeviceId,
        request: &EnrolRequest,
        now: WallTime,
    ) -> Result<Member, EnrolRefusal> {
        if self.uses_left == 0 || now >= self.expires || Sha256::of(&request.secret) != self.secret_hash {
            return Err(EnrolRefusal::Token);
        }
        self.uses_left -= 1;
        Ok(Member {
            fleet,
            device,
            site: self.site.clone(),
            class: self.class,
            system: request.system.clone(),
            host: request.host.clone(),
            issued: now,
            expires: now.plus_days(CERTIFICATE_DAYS),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::RevokedDevice;
    use crate::system::Family;

    const NOW: WallTime = WallTime::from_unix_seconds(1_800_000_000);

    fn member(device: DeviceId) -> Member {
        Member {
            fleet: FleetId::from_bytes([1; 32]),
            device,
            site: SiteName::new("utrecht").expect("site"),
            class: Class::Server,
            system: System {
                family: Family::Linux,
                distribution: "debian".to_owned(),
                release: "12".to_owned(),
                architecture: "amd64".to_owned(),
            },
            host: HostName::new("host").expect("host"),
            issued: NOW,
            expires: NOW.plus_days(1),
        }
    }

    fn verifier(issuer: &SigningKey, revoked: &[DeviceId]) -> Verifier {
        let services = Services {
            enrolment_keys: vec![EnrolmentKey { public: issuer.public(), valid_until: None }],
            ..Services::default()
        };
        let devices =
            revoked.iter().map(|&device| RevokedDevice { device, since: NOW, reason: String::new() });
        Verifier::new(FleetId::from_bytes([1; 32]), &services, &Revoked { devices: devices.collect() })
    }

    // proves M15
    #[test]
    fn each_rule_has_its_rejection() {
        let issuer = SigningKey::from_seed(&[1; 32]);
        let device = SigningKey::from_seed(&[2; 32]).device();
        let stranger = SigningKey::from_seed(&[3; 32]);
        let good = Certificate::issue(&member(device), &issuer);
        let check = |certificate: &Certificate, revoked: &[DeviceId], now| {
            verifier(&issuer, revoked).verify(certificate, device, now).map(|member| member.device)
        };
        assert_eq!(check(&good, &[], NOW), Ok(device));
        assert_eq!(check(&good, &[device], NOW), Err(Rejection::Revoked));
        assert_eq!(check(&good, &[], NOW.plus_days(1)), Err(Rejection::Expired));
        assert_eq!(check(&good, &[], WallTime::from_unix_seconds(0)), Err(Rejection::NotYetValid));
        let forged = Certificate::issue(&member(device), &stranger);
        assert_eq!(check(&forged, &[], NOW), Err(Rejection::UnknownIssuer));
        let others = Certificate::issue(&member(stranger.device()), &issuer);
        assert_eq!(check(&others, &[], NOW), Err(Rejection::OtherDevice));
        let elsewhere = Member { fleet: FleetId::from_bytes([2; 32]), ..member(device) };
        assert_eq!(check(&Certificate::issue(&elsewhere, &issuer), &[], NOW), Err(Rejection::OtherFleet));
        let mut changed = good.clone();
        changed.member[40] ^= 1;
        assert!(check(&changed, &[], NOW).is_err());
    }

    // proves N2
    #[test]
    fn activation_key_survives_copying_and_shows_damage() {
        let key = ActivationKey {
            fleet: FleetId::from_bytes([1; 32]),
            registrar: DeviceId::from_bytes([2; 32]),
            addresses: vec!["/ip4/10.0.0.2/tcp/7701".to_owned()],
            secret: [3; 16],
        };
        let text = key.to_string();
        assert_eq!(ActivationKey::parse(&format!("  {text}\n")), Ok(key));
        assert_eq!(ActivationKey::parse(&text[..text.len() - 1]), Err(BadActivationKey::Damaged));
        assert_eq!(ActivationKey::parse("hello"), Err(BadActivationKey::Prefix));
    }

    // proves N2
    #[test]
    fn tokens_run_out_and_expire() {
        let request = EnrolRequest {
            secret: [3; 16],
            host: HostName::new("host").expect("host"),
            system: member(DeviceId::from_bytes([2; 32])).system,
        };
        let mut token = Token {
            secret_hash: Sha256::of(&[3; 16]),
            site: SiteName::new("utrecht").expect("site"),
            class: Class::Workstation,
            uses_left: 1,
            expires: NOW.plus_days(1),
        };
        let device = DeviceId::from_bytes([2; 32]);
        let fleet = FleetId::from_bytes([1; 32]);
        let wrong = EnrolRequest { secret: [4; 16], ..request.clone() };
        assert_eq!(token.enrol(fleet, device, &wrong, NOW), Err(EnrolRefusal::Token));
        assert_eq!(token.enrol(fleet, device, &request, NOW.plus_days(1)), Err(EnrolRefusal::Token));
        assert!(token.enrol(fleet, device, &request, NOW).is_ok());
        assert_eq!(token.enrol(fleet, device, &request, NOW), Err(EnrolRefusal::Token));
    }
}
