//! Bounded decoding of bincode, canonical JSON, and the hexadecimal form of fixed-size values.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes that are not the value they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// More bytes than the limit for this kind of message.
    #[error("message of {found} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// Bytes that arrived.
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not the encoding of the expected type; the text is bincode's own.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// A whole value, and then more.
    #[error("{0} bytes after the end of the message")]
    TrailingBytes(usize),
}

const fn configuration() -> bincode::config::Configuration {
    bincode::config::standard()
}

/// Encodes `value` in bincode's standard configuration (little endian, variable-length integers).
///
/// # Panics
/// Never for the types of this crate: encoding to memory fails only for types that cannot be serialised at all.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, configuration()).expect("our own types serialise into memory")
}

/// Decodes one whole value of at most `LIMIT` bytes; allocation while decoding is held to the same limit.
///
/// # Errors
/// [`DecodeError`] says what is wrong with the bytes; they are the sender's fault and trying again does not help.
pub fn decode<T: DeserializeOwned, const LIMIT: usize>(bytes: &[u8]) -> Result<T, DecodeError> {
    if bytes.len() > LIMIT {
        return Err(DecodeError::TooLarge { found: bytes.len(), limit: LIMIT });
    }
    // Decoded values are larger in memory than encoded ones, but no length may claim more than the input could hold.
    let bounded = configuration().with_limit::<LIMIT>();
    match bincode::serde::decode_from_slice(bytes, bounded) {
        Ok((value, used)) if used == bytes.len() => Ok(value),
        Ok((_, used)) => Err(DecodeError::TrailingBytes(bytes.len() - used)),
        Err(error) => Err(DecodeError::Malformed(error.to_string())),
    }
}

/// The canonical JSON of `value` (OLPC form: sorted keys, no white space, no fractions), the form that TUF signs.
///
/// # Errors
/// When `value` holds a number that is not an integer, which canonical JSON cannot express.
pub fn canonical_json<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = Vec::new();
    let mut serializer =
        serde_json::Serializer::with_formatter(&mut bytes, olpc_cjson::CanonicalFormatter::new());
    value.serialize(&mut serializer)?;
    Ok(bytes)
}

/// Text that is not the hexadecimal form of a value of fixed size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hexadecimal digits in lower case, found \"{found}\"")]
pub struct NotHex {
    expected: usize,
    found: String,
}

/// Reads exactly `N` bytes from `2 N` hexadecimal digits in lower case.
///
/// # Errors
/// [`NotHex`] for any other text.
pub fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], NotHex> {
    let wrong = || NotHex { expected: 2 * N, found: text.chars().take(2 * N + 1).collect() };
    let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(|_| wrong())?;
    bytes.try_into().map_err(|_| wrong())
}

/// Writes bytes as hexadecimal digits in lower case.
pub fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// Makes a newtype over a fixed-size byte array: hexadecimal in text formats, plain bytes in binary ones.
macro_rules! hex_newtype {
    ($(#[$doc:meta])* $name:ident) => { $crate::codec::hex_newtype! { $(#[$doc])* $name, 32 } };
    ($(#[$doc:meta])* $name:ident, $length:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name([u8; $length]);

        const _: () = assert!($length % 8 == 0, "the order of identities looks at eight bytes at a time");

        impl Ord for $name {
            /// The order of the bytes, eight at a time: maps compare identities all the time.
            #[inline]
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                let ((mine, _), (theirs, _)) = (self.0.as_chunks::<8>(), other.0.as_chunks::<8>());
                for (mine, theirs) in mine.iter().zip(theirs) {
                    if mine != theirs {
                        return u64::from_be_bytes(*mine).cmp(&u64::from_be_bytes(*theirs));
                    }
                }
                std::cmp::Ordering::Equal
            }
        }

        impl PartialOrd for $name {
            #[inline]
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl $name {
            /// Wraps the raw bytes.
            pub const fn from_bytes(bytes: [u8; $length]) -> Self {
                Self(bytes)
            }

            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; $length] {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&$crate::codec::hex(&self.0))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({})", stringify!($name), $crate::codec::hex(&self.0))
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::codec::NotHex;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $crate::codec::parse_hex(text).map(Self)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    let bytes = <Vec<u8> as serde::Deserialize>::deserialize(deserializer)?;
                    let found = bytes.len();
                    let wrong = || serde::de::Error::invalid_length(found, &concat!(stringify!($length), " bytes"));
                    bytes.try_into().map(Self).map_err(|_| wrong())
                }
            }
        }
    };
}
pub(crate) use hex_newtype;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Sha256;
    use proptest::prelude::*;

    #[test]
    fn limits_hold() {
        let long = encode(&vec![7u8; 100]);
        assert!(matches!(decode::<Vec<u8>, 50>(&long), Err(DecodeError::TooLarge { .. })));
        let claims_much = [0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f];
        assert!(decode::<Vec<u8>, 1024>(&claims_much).is_err());
        let mut trailing = encode(&1u8);
        trailing.push(0);
        assert_eq!(decode::<u8, 16>(&trailing), Err(DecodeError::TrailingBytes(1)));
    }

    proptest! {
        #[test]
        fn digest_round_trips(bytes: [u8; 32]) {
            let digest = Sha256::from_bytes(bytes);
            prop_assert_eq!(digest.to_string().parse::<Sha256>().ok(), Some(digest));
            prop_assert_eq!(decode::<Sha256, 64>(&encode(&digest)), Ok(digest));
            let json = serde_json::to_string(&digest).expect("digest");
            prop_assert_eq!(serde_json::from_str::<Sha256>(&json).ok(), Some(digest));
        }

        #[test]
        fn identities_stand_in_the_order_of_their_bytes(one: [u8; 32], mut other: [u8; 32], same in 0usize..=32) {
            other[..same].copy_from_slice(&one[..same]);
            prop_assert_eq!(Sha256::from_bytes(one).cmp(&Sha256::from_bytes(other)), one.cmp(&other));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode::<Vec<(u64, String, Sha256)>, 4096>(&bytes);
        }
    }
}
