//! Small OpenPGP keys made for the tests, good ones and each kind of bad one.

mod apt;
mod openpgp;

use super::certificate::Certificate;
use pgp::composed::{ArmorOptions, CleartextSignedMessage, KeyType, SignedKeyDetails, SignedPublicKey};
use pgp::composed::{DsaKeySize, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{
    KeyFlags, PubKeyInner, PublicKey, PublicSubkey, SecretKey, SecretSubkey, Signature, SignatureConfig,
    SignatureType, Subpacket, SubpacketData, UserId,
};
use pgp::types::{Duration, KeyVersion, Password, SignedUser, SigningKey, Tag, Timestamp};
use protocol::time::WallTime;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// The time of the tests.
const NOW: u32 = 1_700_000_000;
/// When keys are made.
const CREATED: u32 = NOW - 1_000 * DAY;
/// Seconds of a day.
const DAY: u32 = 86_400;

fn now() -> WallTime {
    WallTime::from_unix_seconds(u64::from(NOW))
}

/// What binds a signing subkey back to its primary key.
#[derive(Clone, Copy, PartialEq)]
enum Back {
    Good,
    Missing,
    ByPrimary,
}

/// How to make a certificate; the default is a good one.
#[derive(Clone)]
struct Recipe {
    seed: u64,
    primary: KeyType,
    subkey: KeyType,
    created: u32,
    /// Digest of self-signature and binding.
    digest: HashAlgorithm,
    primary_signs: bool,
    primary_days: Option<u32>,
    subkey_signs: bool,
    subkey_days: Option<u32>,
    back: Back,
    revoke_primary: bool,
    revoke_subkey: bool,
    revoke_user: bool,
    critical: bool,
    bound: bool,
}

impl Default for Recipe {
    fn default() -> Recipe {
        Recipe {
            seed: 1,
            primary: KeyType::Ed25519Legacy,
            subkey: KeyType::Ed25519Legacy,
            created: CREATED,
            digest: HashAlgorithm::Sha512,
            primary_signs: false,
            primary_days: Some(2_000),
            subkey_signs: true,
            subkey_days: None,
            back: Back::Good,
            revoke_primary: false,
            revoke_subkey: false,
            revoke_user: false,
            critical: false,
            bound: true,
        }
    }
}

/// A certificate with its private keys.
struct Keys {
    primary: SecretKey,
    subkey: SecretSubkey,
    certificate: Certificate,
}

fn config(
    typ: SignatureType,
    key: &impl SigningKey,
    digest: HashAlgorithm,
    created: u32,
    more: Vec<SubpacketData>,
) -> SignatureConfig {
    let mut config = SignatureConfig::v4(typ, key.algorithm(), digest);
    let parts = [
        SubpacketData::SignatureCreationTime(Timestamp::from_secs(created)),
        SubpacketData::IssuerFingerprint(key.fingerprint()),
    ];
    config.hashed_subpackets = parts.into_iter().chain(more).map(regular).collect();
    config.unhashed_subpackets = vec![regular(SubpacketData::IssuerKeyId(key.legacy_key_id()))];
    config
}

fn regular(data: SubpacketData) -> Subpacket {
    Subpacket::regular(data).expect("subpacket")
}

fn flags(certify: bool, sign: bool) -> SubpacketData {
    let mut flags = KeyFlags::default();
    flags.set_certify(certify);
    flags.set_sign(sign);
    SubpacketData::KeyFlags(flags)
}

fn days(days: Option<u32>) -> Option<SubpacketData> {
    days.map(|days| SubpacketData::KeyExpirationTime(Duration::from_secs(days * DAY)))
}

fn inner(kind: &KeyType, created: u32, rng: &mut StdRng) -> (PubKeyInner, pgp::types::SecretParams) {
    let (public, secret) = kind.generate(rng).expect("key");
    let created = Timestamp::from_secs(created);
    (PubKeyInner::new(KeyVersion::V4, kind.to_alg(), created, None, public).expect("public key"), secret)
}

impl Recipe {
    fn make(&self) -> Keys {
        let (mut rng, password) = (StdRng::seed_from_u64(self.seed), Password::empty());
        let (public, secret) = inner(&self.primary, self.created, &mut rng);
        let public = PublicKey::from_inner(public).expect("primary");
        let primary = SecretKey::new(public.clone(), secret).expect("primary");
        let (sub_public, sub_secret) = inner(&self.subkey, self.created, &mut rng);
        let sub_public = PublicSubkey::from_inner(sub_public).expect("subkey");
        let subkey = SecretSubkey::new(sub_public.clone(), sub_secret).expect("subkey");

        let id = UserId::from_str(Default::default(), "Vendor <vendor@vendor.example>").expect("user");
        let parts = [flags(true, self.primary_signs)].into_iter().chain(days(self.primary_days)).collect();
        let mut certify = config(SignatureType::CertPositive, &primary, self.digest, self.created, parts);
        if self.critical {
            let unknown = SubpacketData::Experimental(101, b"?".to_vec().into());
            certify.hashed_subpackets.push(Subpacket::critical(unknown).expect("subpacket"));
        }
        let certified = certify.sign_certification(&primary, &public, &password, Tag::UserId, &id);
        let mut certifications = vec![certified.expect("certified")];
        if self.revoke_user {
            let revoke = config(SignatureType::CertRevocation, &primary, self.digest, NOW - DAY, Vec::new());
            let revoked = revoke.sign_certification(&primary, &public, &password, Tag::UserId, &id);
            certifications.push(revoked.expect("revoked"));
        }
        let user = SignedUser::new(id, certifications);

        let mut bindings = Vec::new();
        if self.bound {
            bindings.push(self.bind(&primary, &public, &subkey, &sub_public));
        }
        if self.revoke_subkey {
            let revoke =
                config(SignatureType::SubkeyRevocation, &primary, self.digest, NOW - DAY, Vec::new());
            let revoked = revoke.sign_subkey_binding(&primary, &public, &password, &sub_public);
            bindings.push(revoked.expect("revoked"));
        }
        let mut revocations = Vec::new();
        if self.revoke_primary {
            let revoke = config(SignatureType::KeyRevocation, &primary, self.digest, NOW - DAY, Vec::new());
            revocations.push(revoke.sign_key(&primary, &password, &public).expect("revoked"));
        }
        let details = SignedKeyDetails::new(revocations, Vec::new(), vec![user], Vec::new());
        let subkeys = vec![SignedPublicSubKey { key: sub_public, signatures: bindings }];
        let armoured = SignedPublicKey { primary_key: public, details, public_subkeys: subkeys }
            .to_armored_string(ArmorOptions::default())
            .expect("armour");
        Keys { primary, subkey, certificate: Certificate::parse(&armoured).expect("certificate") }
    }

    fn bind(
        &self,
        primary: &SecretKey,
        public: &PublicKey,
        subkey: &SecretSubkey,
        sub_public: &PublicSubkey,
    ) -> Signature {
        let password = Password::empty();
        let back = config(SignatureType::KeyBinding, subkey, self.digest, self.created, Vec::new());
        let back = match self.back {
            Back::Good => Some(back.sign_primary_key_binding(subkey, sub_public, &password, public)),
            Back::ByPrimary => Some(back.sign_primary_key_binding(primary, sub_public, &password, public)),
            Back::Missing => None,
        };
        let back = back.map(|back| SubpacketData::EmbeddedSignature(Box::new(back.expect("back-signature"))));
        let parts = [flags(false, self.subkey_signs)].into_iter().chain(days(self.subkey_days)).chain(back);
        config(SignatureType::SubkeyBinding, primary, self.digest, self.created, parts.collect())
            .sign_subkey_binding(primary, public, &password, sub_public)
            .expect("bound")
    }
}

/// A signature over text, with the digest and the dates asked for.
fn sign(
    key: &impl SigningKey,
    digest: HashAlgorithm,
    created: u32,
    days: Option<u32>,
    text: &str,
) -> Signature {
    let expiry = days.map(|days| SubpacketData::SignatureExpirationTime(Duration::from_secs(days * DAY)));
    config(SignatureType::Text, key, digest, created, expiry.into_iter().collect())
        .sign(key, &Password::empty(), text.as_bytes())
        .expect("signature")
}

/// A clear-signed message with the signatures that `signer` makes over its normalised text.
fn clear_sign(text: &str, signer: impl FnOnce(&str) -> Vec<Signature>) -> String {
    CleartextSignedMessage::new_many(text, |normalised| Ok(signer(normalised)))
        .and_then(|message| message.to_armored_string(ArmorOptions::default()))
        .expect("message")
}

impl Keys {
    /// A message by the subkey, a day old.
    fn message(&self, text: &str) -> String {
        clear_sign(text, |text| vec![sign(&self.subkey, HashAlgorithm::Sha256, NOW - DAY, None, text)])
    }
}
