//! Keys in TUF's format, and whether enough of them signed (TUF 4.2.1 and 4.3).

use super::{Refused, RoleName};
use crate::codec::{self, hex_newtype};
use crate::digest::Sha256;
use crate::limits;
use crate::signature::{PublicKey, Purpose, Signature};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

hex_newtype! {
    /// The identifier of a key: SHA-256 of the canonical JSON of the key object.
    KeyId
}

/// A public key as metadata writes it. Kinds other than ed25519 are kept and never count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    keytype: String,
    scheme: String,
    keyval: BTreeMap<String, Value>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

impl Key {
    /// The key object of an ed25519 key.
    pub fn ed25519(public: PublicKey) -> Key {
        let keyval = BTreeMap::from([("public".to_owned(), Value::String(public.to_string()))]);
        Key { keytype: "ed25519".to_owned(), scheme: "ed25519".to_owned(), keyval, rest: BTreeMap::new() }
    }

    /// The public key, when it is of the one kind that this node verifies.
    pub fn public(&self) -> Option<PublicKey> {
        if self.keytype != "ed25519" || self.scheme != "ed25519" {
            return None;
        }
        self.keyval.get("public")?.as_str()?.parse().ok()
    }

    /// Its identifier.
    pub fn id(&self) -> KeyId {
        // Strict parsing admits no fractions, and our own keys have none; a key that cannot be written has no owner.
        let json = codec::canonical_json(self).unwrap_or_default();
        KeyId::from_bytes(*Sha256::of(&json).as_bytes())
    }
}

/// Which keys speak for a role, and how many of them must.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleKeys {
    /// The keys.
    pub keyids: Vec<KeyId>,
    /// How many distinct ones must sign.
    pub threshold: usize,
}

impl RoleKeys {
    /// A role for which each of these keys may speak alone.
    pub fn any_of(keys: &[PublicKey]) -> RoleKeys {
        RoleKeys { keyids: keys.iter().map(|key| Key::ed25519(*key).id()).collect(), threshold: 1 }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let distinct: BTreeSet<_> = self.keyids.iter().collect();
        if distinct.len() != self.keyids.len() {
            return Err("a role names one key twice".to_owned());
        }
        if self.threshold == 0 || self.keyids.len() > limits::SIGNATURES_PER_FILE {
            return Err("a role has threshold 0 or too many keys".to_owned());
        }
        Ok(())
    }
}

/// Checks that key identifiers are those of their keys, so that one key cannot pass for two.
pub(super) fn check_keys(keys: &BTreeMap<KeyId, Key>) -> Result<(), String> {
    if keys.len() > limits::BUNDLE_FILES {
        return Err("too many keys".to_owned());
    }
    match keys.iter().find(|(id, key)| key.id() != **id) {
        Some((id, _)) => Err(format!("key identifier {id} is not the SHA-256 of its key")),
        None => Ok(()),
    }
}

/// The keys of a delegator and the role that it defines: what a signature is checked against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Authority<'a> {
    pub keys: &'a BTreeMap<KeyId, Key>,
    pub role: &'a RoleKeys,
    pub name: &'a RoleName,
}

impl Authority<'_> {
    /// Whether enough distinct keys of the role signed `message`. Counts public keys, not identifiers.
    pub fn verify(
        &self,
        path: &str,
        message: &[u8],
        signatures: &BTreeMap<KeyId, Signature>,
    ) -> Result<(), Refused> {
        let mut valid = BTreeSet::new();
        let mut bad = false;
        for id in &self.role.keyids {
            let Some(signature) = signatures.get(id) else { continue };
            let Some(public) = self.keys.get(id).and_then(Key::public) else { continue };
            match public.verify(Purpose::Metadata, message, signature) {
                Ok(()) => {
                    valid.insert(public);
                }
                Err(_) => bad = true,
            }
        }
        let (found, threshold) = (valid.len(), self.role.threshold);
        if found >= threshold {
            Ok(())
        } else if bad {
            Err(Refused::BadSignature { role: self.name.clone(), path: path.to_owned() })
        } else {
            let (role, path) = (self.name.clone(), path.to_owned());
            Err(Refused::TooFewSignatures { role, path, found, threshold })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::SigningKey;

    #[test]
    fn the_identifier_is_the_one_that_other_implementations_compute() {
        // SHA-256 of {"keytype":"ed25519","keyval":{"public":"00…00"},"scheme":"ed25519"} as sha256sum prints it.
        let text = format!(
            r#"{{"keytype":"ed25519","keyval":{{"public":"{}"}},"scheme":"ed25519"}}"#,
            "0".repeat(64)
        );
        let key = Key::ed25519(PublicKey::from_bytes([0; 32]));
        assert_eq!(key.id().to_string(), Sha256::of(text.as_bytes()).to_string());
    }

    #[test]
    fn one_key_under_two_identifiers_counts_once() {
        let signer = SigningKey::from_seed(&[1; 32]);
        let plain = Key::ed25519(signer.public());
        let mut dressed = plain.clone();
        dressed.rest.insert("note".to_owned(), Value::String("x".to_owned()));
        let keys = BTreeMap::from([(plain.id(), plain.clone()), (dressed.id(), dressed.clone())]);
        assert_eq!(check_keys(&keys), Ok(()));
        let role = RoleKeys { keyids: vec![plain.id(), dressed.id()], threshold: 2 };
        let signature = signer.sign(Purpose::Metadata, b"m");
        let signatures = BTreeMap::from([(plain.id(), signature), (dressed.id(), signature)]);
        let name = RoleName::root();
        let refused = Authority { keys: &keys, role: &role, name: &name }.verify("f", b"m", &signatures);
        assert_eq!(refused.map_err(|refused| refused.code()), Err("too-few-signatures"));
    }

    #[test]
    fn an_identifier_must_be_its_keys_own() {
        let key = Key::ed25519(SigningKey::from_seed(&[1; 32]).public());
        assert!(check_keys(&BTreeMap::from([(KeyId::from_bytes([0; 32]), key)])).is_err());
    }
}
