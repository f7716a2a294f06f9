//! Keys as their holders send them.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;
use yai_agentkit_core::{
    ListQuery, Result, Stores,
    access::{ApiKey, Scope},
};

/// What every key begins with, so that a scanner of secrets finds it:
/// `agk_[0-9a-f]{32}_[0-9a-f]{64}`.
const PREFIX: &str = "agk_";

const ID_DIGITS: usize = 32;
const SECRET_BYTES: usize = 32;

/// A key: the prefix, the id of what is stored of it, and 256 random bits. Does not print.
pub(crate) struct Token {
    pub(crate) id: Uuid,
    text: String,
}

impl Token {
    /// A new one, which nobody can guess.
    pub(crate) fn new() -> Result<Self, getrandom::Error> {
        let mut secret = [0_u8; SECRET_BYTES];
        getrandom::fill(&mut secret)?;
        let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let id = Uuid::now_v7();
        let text = format!("{PREFIX}{}_{secret}", id.simple());
        Ok(Self { id, text })
    }

    /// `None` where the text has not the form of a key.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let is_whole = id.len() == ID_DIGITS && secret.len() == 2 * SECRET_BYTES;
        let id = Uuid::try_parse(id).ok().filter(|_| is_whole)?;
        let text = text.to_owned();
        Some(Self { id, text })
    }

    /// To be shown once.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// What is stored of it.
    pub(crate) fn key(&self, name: &str, scope: Scope) -> ApiKey {
        ApiKey::new(self.id, name, self.digest(), scope)
    }

    /// Whether it is the one of which `key` is stored. Takes as long where it is not.
    pub(crate) fn is_of(&self, key: &ApiKey) -> bool {
        self.digest().ct_eq(&key.digest).into()
    }

    fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.text).into()
    }
}

/// Whether the text begins as keys do.
pub(crate) fn is_like_one(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// Whether a key was ever made: none is deleted but with its owner.
pub(crate) async fn exist(stores: &dyn Stores) -> Result<bool> {
    let first = ListQuery::default().limit(1);
    Ok(!stores.api_keys().list(&first).await?.items.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_again_and_no_other_is() {
        let token = Token::new().unwrap();
        let key = token.key("CI", Scope::Read);
        let again = Token::parse(token.text()).unwrap();
        assert_eq!(again.id, key.id);
        assert!(again.is_of(&key));
        let mut other = token.text().to_owned();
        let last = if other.ends_with('0') { "1" } else { "0" };
        other.replace_range(other.len() - 1.., last);
        assert!(!Token::parse(&other).unwrap().is_of(&key));
        assert!(!Token::new().unwrap().is_of(&key));
    }

    #[test]
    fn what_has_not_the_form_of_a_key_is_none() {
        let text = Token::new().unwrap().text().to_owned();
        let hyphenated = format!("agk_{}_{}", Uuid::now_v7(), "0".repeat(64));
        for text in [
            "",
            "agk_",
            &text[1..],
            &text[..text.len() - 1],
            &format!("{text}0"),
            &hyphenated,
            &text.replacen('_', "-", 2),
        ] {
            assert!(Token::parse(text).is_none(), "{text}");
        }
    }
}
