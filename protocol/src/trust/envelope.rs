//! The envelope of a metadata file: strict JSON, signatures over the canonical form of what arrived (TUF 4.2).

use super::keys::Authority;
use super::metadata::Metadata;
use super::{KeyId, Refused, RoleName};
use crate::codec;
use crate::limits;
use crate::signature::Signature;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// JSON of which there is only one reading: no member twice, no fractions, and ASCII only, since canonical JSON
/// normalises Unicode and would let two different texts share a signature.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Strict, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

fn ascii<E: serde::de::Error>(text: &str) -> Result<String, E> {
    if text.is_ascii() { Ok(text.to_owned()) } else { Err(E::custom("text outside ASCII")) }
}

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without fractions")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        ascii(value).map(Value::String)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = access.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            let name = ascii(&name)?;
            let Strict(value) = access.next_value()?;
            if members.contains_key(&name) {
                return Err(A::Error::custom(format_args!("member \"{name}\" stands twice")));
            }
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}

/// A metadata file as it arrived, with its content read: nothing in it is believed before it was verified.
#[derive(Clone, Debug)]
pub(super) struct Read<T> {
    pub bytes: Arc<[u8]>,
    pub content: T,
    path: String,
    message: Vec<u8>,
    signatures: BTreeMap<KeyId, Signature>,
}

impl<T: Metadata> Read<T> {
    /// Reads the file that lies at `path`, held to the limit of its type.
    pub fn new(path: &str, bytes: Arc<[u8]>) -> Result<Read<T>, Refused> {
        let malformed = |cause: String| Refused::Malformed { path: path.to_owned(), cause };
        if bytes.len() > T::LIMIT {
            let (found, limit) = (bytes.len() as u64, T::LIMIT as u64);
            return Err(Refused::TooLarge { path: path.to_owned(), found, limit });
        }
        let Strict(value) = serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
        let Some((signed, signatures)) = value.get("signed").zip(value.get("signatures")) else {
            return Err(malformed("no \"signed\" or no \"signatures\"".to_owned()));
        };
        check_header::<T>(path, signed)?;
        let signatures = read_signatures(signatures).map_err(malformed)?;
        let content = T::deserialize(signed).map_err(|error| malformed(error.to_string()))?;
        content.check().map_err(malformed)?;
        let message = codec::canonical_json(signed).map_err(|error| malformed(error.to_string()))?;
        Ok(Read { bytes, content, path: path.to_owned(), message, signatures })
    }

    /// Whether `authority` signed it.
    pub fn verify(&self, authority: Authority<'_>) -> Result<(), Refused> {
        authority.verify(&self.path, &self.message, &self.signatures)
    }
}

fn check_header<T: Metadata>(path: &str, signed: &Value) -> Result<(), Refused> {
    let text = |name: &str| signed.get(name).and_then(Value::as_str).unwrap_or_default();
    let path = path.to_owned();
    if text("_type") != T::KIND {
        return Err(Refused::WrongType { path, expected: T::KIND, found: text("_type").to_owned() });
    }
    if text("spec_version").split('.').next() != Some("1") {
        return Err(Refused::OtherSpecification { path, found: text("spec_version").to_owned() });
    }
    Ok(())
}

fn read_signatures(value: &Value) -> Result<BTreeMap<KeyId, Signature>, String> {
    let entries = value.as_array().ok_or("\"signatures\" is not a list")?;
    if entries.len() > limits::SIGNATURES_PER_FILE {
        return Err(format!("more than {} signatures", limits::SIGNATURES_PER_FILE));
    }
    let mut seen = BTreeSet::new();
    let mut signatures = BTreeMap::new();
    for entry in entries {
        let text = |name: &str| entry.get(name).and_then(Value::as_str);
        let (id, signature) = text("keyid").zip(text("sig")).ok_or("a signature without keyid or sig")?;
        if !seen.insert(id) {
            return Err(format!("two signatures of key {id}"));
        }
        // Signatures in other forms are of other kinds of key: they do not count, and they do no harm.
        if let (Ok(id), Ok(signature)) = (id.parse(), signature.parse()) {
            signatures.insert(id, signature);
        }
    }
    Ok(signatures)
}

/// Metadata that is ready to be signed.
#[derive(Clone, Debug)]
pub struct Unsigned {
    role: RoleName,
    version: u64,
    signed: Value,
}

impl Unsigned {
    /// Metadata of `role` with this content.
    pub fn new<T: Metadata + Serialize>(role: RoleName, content: &T) -> Unsigned {
        let mut signed = serde_json::to_value(content).expect("our own metadata types have a JSON form");
        signed["_type"] = json!(T::KIND);
        signed["spec_version"] = json!(super::metadata::SPECIFICATION);
        Unsigned { role, version: content.version(), signed }
    }

    /// The role that must sign.
    pub fn role(&self) -> &RoleName {
        &self.role
    }

    /// Version of the metadata.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The bytes to sign, with [`crate::signature::Purpose::Metadata`].
    pub fn message(&self) -> Vec<u8> {
        codec::canonical_json(&self.signed).expect("our own metadata holds no fractions")
    }

    /// The metadata file.
    pub fn finish(self, signatures: &[(KeyId, Signature)]) -> Vec<u8> {
        let signatures: Vec<Value> =
            signatures.iter().map(|(id, signature)| json!({ "keyid": id, "sig": signature })).collect();
        let file = json!({ "signatures": signatures, "signed": self.signed });
        serde_json::to_vec_pretty(&file).expect("JSON values serialise into memory")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Value, String> {
        serde_json::from_str::<Strict>(text).map(|strict| strict.0).map_err(|error| error.to_string())
    }

    #[test]
    fn json_has_one_reading() {
        assert_eq!(parse(r#"{"a":[1,-1,true,null,"x"]}"#), Ok(json!({ "a": [1, -1, true, null, "x"] })));
        for bad in [r#"{"a":1,"a":2}"#, r#"{"a":{"b":1,"\u0062":2}}"#, "1.5", "1e3", r#""é""#, "{} {}"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse(&"[".repeat(10_000)).is_err());
    }

    #[test]
    fn two_signatures_of_one_key_are_refused() {
        let id = "0".repeat(64);
        let entry = json!({ "keyid": id, "sig": "00".repeat(64) });
        assert!(read_signatures(&json!([entry, entry])).is_err());
        assert_eq!(read_signatures(&json!([entry])).map(|found| found.len()), Ok(1));
        assert_eq!(read_signatures(&json!([{ "keyid": "x", "sig": "y" }])).map(|found| found.len()), Ok(0));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Read::<super::super::Targets>::new("f", bytes.into());
        }
    }
}
