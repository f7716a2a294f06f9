//! The keys of a tenant, and what is encrypted with them.

use std::{collections::BTreeMap, fmt};

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD as BASE64};
use chacha20poly1305::{KeyInit, Tag, XChaCha20Poly1305, XNonce, aead::AeadInOut};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::{EncryptionError, Policy};

/// How long a key is, in bytes.
pub(crate) const KEY_BYTES: usize = 32;

const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

/// The number of the key comes before all else.
const HEADER_BYTES: usize = 4;

/// How a text begins that is encrypted; the number of its key and the rest in base64 follow.
pub(crate) const TEXT: &str = "xchacha20:";

/// The end of the type of a value that is encrypted, as LangGraph's own `+aes`.
pub(crate) const TYPE: &str = "+xchacha20";

/// One key.
pub(crate) struct DataKey {
    number: u32,
    cipher: XChaCha20Poly1305,
    nonces: Hmac<Sha256>,
}

impl DataKey {
    /// Of 32 bytes, of which each of its two uses has a key of its own.
    pub(crate) fn new(number: u32, secret: &[u8]) -> Option<Self> {
        if secret.len() != KEY_BYTES {
            return None;
        }
        let derive = |usage: &str| {
            let mut derive = Hmac::<Sha256>::new_from_slice(secret).ok()?;
            derive.update(usage.as_bytes());
            Some(derive.finalize().into_bytes())
        };
        Some(Self {
            number,
            cipher: XChaCha20Poly1305::new_from_slice(&derive("agentkit cipher")?).ok()?,
            nonces: Hmac::<Sha256>::new_from_slice(&derive("agentkit nonce")?).ok()?,
        })
    }

    pub(crate) fn seal(&self, place: &[&str], plain: &[u8]) -> Vec<u8> {
        let place = associated(place);
        let nonce = self.nonce(&place, plain);
        let length = HEADER_BYTES + NONCE_BYTES + plain.len() + TAG_BYTES;
        let mut sealed = Vec::with_capacity(length);
        sealed.extend(self.number.to_be_bytes());
        sealed.extend(nonce.iter());
        let begin = sealed.len();
        sealed.extend(plain);
        let text = sealed[begin..].as_mut().into();
        let tag = self.cipher.encrypt_inout_detached(&nonce, &place, text);
        sealed.extend(tag.expect("less than 256 GiB").iter());
        sealed
    }

    /// What follows the header. An error says that it is damaged, or of another key or place.
    pub(crate) fn open(&self, place: &[&str], sealed: &[u8]) -> Result<Vec<u8>, EncryptionError> {
        let (nonce, rest) = sealed
            .split_at_checked(NONCE_BYTES)
            .ok_or(EncryptionError::Refused)?;
        let end = rest.len().checked_sub(TAG_BYTES);
        let (text, tag) = rest.split_at(end.ok_or(EncryptionError::Refused)?);
        let nonce = XNonce::try_from(nonce).map_err(|_| EncryptionError::Refused)?;
        let tag = Tag::try_from(tag).map_err(|_| EncryptionError::Refused)?;
        let mut plain = text.to_vec();
        let opened = self.cipher.decrypt_inout_detached(
            &nonce,
            &associated(place),
            plain.as_mut_slice().into(),
            &tag,
        );
        opened.map_err(|_| EncryptionError::Refused)?;
        Ok(plain)
    }

    /// Made of the text and its place, so that what is stored a second time is the same: a call that is
    /// repeated finds what it has written. Two texts, or two places, never share one.
    fn nonce(&self, place: &[u8], plain: &[u8]) -> XNonce {
        let mut mac = self.nonces.clone();
        mac.update(&(place.len() as u64).to_be_bytes());
        mac.update(place);
        mac.update(plain);
        let digest = mac.finalize().into_bytes();
        XNonce::try_from(&digest[..NONCE_BYTES]).expect("so many bytes")
    }
}

/// Where something belongs, unmistakably.
fn associated(place: &[&str]) -> Vec<u8> {
    let mut data = Vec::with_capacity(128);
    for part in place {
        data.extend((part.len() as u64).to_be_bytes());
        data.extend(part.as_bytes());
    }
    data
}

/// The keys of a tenant, of which the newest encrypts.
pub struct KeyRing {
    keys: BTreeMap<u32, DataKey>,
    pub(crate) policy: Policy,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("keys", &self.keys.keys())
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl KeyRing {
    /// `None` without a key.
    pub(crate) fn new(keys: impl IntoIterator<Item = DataKey>, policy: Policy) -> Option<Self> {
        let keys: BTreeMap<_, _> = keys.into_iter().map(|key| (key.number, key)).collect();
        (!keys.is_empty()).then_some(Self { keys, policy })
    }

    /// The number of the key that encrypts.
    pub(crate) fn newest(&self) -> u32 {
        self.current().number
    }

    fn current(&self) -> &DataKey {
        let last = self.keys.values().next_back();
        last.expect("a ring has a key")
    }

    fn key(&self, number: u32) -> Result<&DataKey, EncryptionError> {
        let key = self.keys.get(&number);
        key.ok_or(EncryptionError::UnknownKey(number))
    }

    /// Encrypts what belongs to a place.
    pub(crate) fn seal(&self, place: &[&str], plain: &[u8]) -> Vec<u8> {
        self.current().seal(place, plain)
    }

    /// Decrypts it.
    pub(crate) fn open(&self, place: &[&str], sealed: &[u8]) -> Result<Vec<u8>, EncryptionError> {
        let (number, rest) = sealed.split_first_chunk().ok_or(EncryptionError::Refused)?;
        self.key(u32::from_be_bytes(*number))?.open(place, rest)
    }

    /// Encrypts a text, as a text.
    pub(crate) fn seal_text(&self, place: &[&str], plain: &str) -> String {
        let sealed = self.seal(place, plain.as_bytes());
        let sealed = BASE64.encode(&sealed[HEADER_BYTES..]);
        format!("{TEXT}{}:{sealed}", self.newest())
    }

    /// Decrypts one. What is plain text is an error, unless it may be.
    pub(crate) fn open_text(&self, place: &[&str], text: &str) -> Result<String, EncryptionError> {
        let Some(rest) = text.strip_prefix(TEXT) else {
            return self.plain(text.to_owned());
        };
        let (number, sealed) = rest.split_once(':').ok_or(EncryptionError::Refused)?;
        let number = number.parse().map_err(|_| EncryptionError::Refused)?;
        let sealed = BASE64.decode(sealed);
        let sealed = sealed.map_err(|_| EncryptionError::Refused)?;
        let plain = self.key(number)?.open(place, &sealed)?;
        String::from_utf8(plain).map_err(|_| EncryptionError::Refused)
    }

    /// What is not encrypted, if that may be.
    pub(crate) fn plain<T>(&self, plain: T) -> Result<T, EncryptionError> {
        match self.policy.admits_plain {
            true => Ok(plain),
            false => Err(EncryptionError::Unencrypted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Readable, *};

    fn ring(numbers: &[u32], admits_plain: bool) -> KeyRing {
        let keys = numbers.iter().map(|number| {
            let secret = [u8::try_from(*number).unwrap(); KEY_BYTES];
            DataKey::new(*number, &secret).unwrap()
        });
        let policy = Policy {
            admits_plain,
            readable: Readable::Nothing,
        };
        KeyRing::new(keys, policy).unwrap()
    }

    #[test]
    fn what_is_encrypted_is_read_at_its_place_alone() {
        let ring = ring(&[1], false);
        let sealed = ring.seal(&["blobs", "a", "b"], b"secret");
        assert!(!sealed.windows(6).any(|bytes| bytes == b"secret"));
        assert_eq!(ring.open(&["blobs", "a", "b"], &sealed).unwrap(), b"secret");
        for place in [
            ["blobs", "ab", ""],
            ["blobs", "a", "c"],
            ["writes", "a", "b"],
        ] {
            let refused = ring.open(&place, &sealed);
            assert_eq!(refused, Err(EncryptionError::Refused), "{place:?}");
        }
    }

    #[test]
    fn each_bit_and_each_missing_byte_is_found() {
        let ring = ring(&[1], false);
        let sealed = ring.seal(&["a"], b"secret");
        for bit in 0..8 * sealed.len() {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(ring.open(&["a"], &damaged).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(
                ring.open(&["a"], &sealed[..length]).is_err(),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn a_text_that_is_stored_again_is_the_same_and_no_other_is() {
        let ring = ring(&[1], false);
        let seal = |place, text| ring.seal_text(&[place], text);
        assert_eq!(seal("a", "x"), seal("a", "x"));
        assert_ne!(seal("a", "x")[..40], seal("b", "x")[..40]);
        assert_ne!(seal("a", "x")[..40], seal("a", "y")[..40]);
    }

    #[test]
    fn the_newest_key_encrypts_and_older_ones_still_read() {
        let old = ring(&[1], false).seal_text(&["a"], "secret");
        let both = ring(&[1, 2], false);
        assert_eq!(both.open_text(&["a"], &old).unwrap(), "secret");
        let new = both.seal_text(&["a"], "secret");
        assert!(new.starts_with("xchacha20:2:"), "{new}");
        let lacks = ring(&[1], false).open_text(&["a"], &new);
        assert_eq!(lacks, Err(EncryptionError::UnknownKey(2)));
    }

    #[test]
    fn a_key_of_the_same_number_is_not_taken_for_another() {
        let sealed = ring(&[1], false).seal(&["a"], b"secret");
        let other = DataKey::new(1, &[9; KEY_BYTES]).unwrap();
        let other = KeyRing::new([other], ring(&[1], false).policy).unwrap();
        assert_eq!(other.open(&["a"], &sealed), Err(EncryptionError::Refused));
    }

    #[test]
    fn plain_text_is_refused_unless_it_may_be() {
        let refused = ring(&[1], false).open_text(&["a"], "hello");
        assert_eq!(refused, Err(EncryptionError::Unencrypted));
        assert_eq!(
            ring(&[1], true).open_text(&["a"], "hello").unwrap(),
            "hello"
        );
        let broken = ring(&[1], true).open_text(&["a"], "xchacha20:1:AAAA");
        assert_eq!(broken, Err(EncryptionError::Refused));
    }

    #[test]
    fn a_ring_prints_without_its_keys() {
        let shown = format!("{:?}", ring(&[7], false));
        assert!(shown.starts_with("KeyRing { keys: [7], policy"), "{shown}");
    }
}
