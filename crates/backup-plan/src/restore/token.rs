//! The token of the cluster that begins. Ids of members and of the cluster follow from it, so members with different tokens never
//! form a cluster.
//!
//! Members that were restored from different snapshots with one token form a cluster that looks healthy and serves different data.
//! So a token contains what was restored.

use crate::hex::hex;
use sha2::{Digest, Sha256};

/// The text before every token that is made here, to be recognised in etcd's flags.
const PREFIX: &str = "etcd-lifeboat-";
/// A token or an id has so many hex digits.
const DIGITS: usize = 32;

/// What a restore id is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "--restore-id {found:?} is not a restore id: use the one that `restore` printed on the first node"
)]
pub struct NotARestoreId {
    found: String,
}

/// Names one restore of several members. It is random; the same members can be restored again with another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreId(String);

impl RestoreId {
    /// Makes an id of random bytes.
    #[must_use]
    pub fn of_random(bytes: [u8; 16]) -> Self {
        RestoreId(hex(&bytes))
    }

    /// Reads an id that was printed on another node.
    ///
    /// # Errors
    /// It is not one.
    pub fn parse(text: &str) -> Result<Self, NotARestoreId> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() == DIGITS && text.bytes().all(is_digit) {
            return Ok(RestoreId(text.into()));
        }
        Err(NotARestoreId { found: text.into() })
    }

    /// The id, as it is printed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The token for this restore of this data. Another snapshot or another revision gives another token.
    #[must_use]
    pub fn token(&self, data_sha256: &[u8; 32], revision: Option<i64>) -> String {
        let mut hash = Sha256::new();
        hash.update(&self.0);
        hash.update(data_sha256);
        // No revision is different from every revision.
        hash.update(revision.unwrap_or(-1).to_be_bytes());
        let digits = hex(&hash.finalize());
        let digits: String = digits.chars().take(DIGITS).collect();
        format!("{PREFIX}{digits}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_restore_of_the_same_data_has_the_same_token() {
        let id = RestoreId::of_random([7; 16]);
        let token = id.token(&[1; 32], Some(5));
        assert_eq!(
            RestoreId::parse(id.as_str())
                .unwrap()
                .token(&[1; 32], Some(5)),
            token
        );
        for other in [
            id.token(&[2; 32], Some(5)),
            id.token(&[1; 32], Some(6)),
            id.token(&[1; 32], None),
            RestoreId::of_random([8; 16]).token(&[1; 32], Some(5)),
        ] {
            assert_ne!(other, token);
        }
        for wrong in ["", "07", &"g".repeat(32), &"A".repeat(32), &"a".repeat(33)] {
            assert!(RestoreId::parse(wrong).is_err(), "{wrong}");
        }
    }
}
