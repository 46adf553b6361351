//! How many manifests, indexes and configs one archive or one copy may lead to.
//!
//! Each of them is bounded by [`DOCUMENT_LIMIT`](crate::model::DOCUMENT_LIMIT), and all of them
//! stay in memory until the last one is known: without a bound of their sum an index of 25,000
//! entries asks for 100 GiB.

/// Bytes of all documents together.
const MOST_BYTES: u64 = 64 << 20;
/// Documents. An index of every platform with an attestation for each has less than 50.
const MOST_DOCUMENTS: usize = 10_000;

/// More documents than any honest image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it leads to more than {MOST_DOCUMENTS} manifests and configs, or to more than {MOST_BYTES} bytes of them"
)]
pub struct TooManyDocuments;

/// What is left of both.
#[derive(Debug)]
pub(crate) struct DocumentBudget {
    bytes: u64,
    documents: usize,
}

impl Default for DocumentBudget {
    fn default() -> Self {
        Self {
            bytes: MOST_BYTES,
            documents: MOST_DOCUMENTS,
        }
    }
}

impl DocumentBudget {
    /// Accounts for one more document of so many bytes. Called for each reading, also of one that
    /// was read before: time is bounded along with memory.
    pub(crate) fn take(&mut self, bytes: u64) -> Result<(), TooManyDocuments> {
        self.documents = self.documents.checked_sub(1).ok_or(TooManyDocuments)?;
        self.bytes = self.bytes.checked_sub(bytes).ok_or(TooManyDocuments)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_and_sum_are_limited() {
        let mut budget = DocumentBudget::default();
        for _ in 0..MOST_DOCUMENTS {
            assert_eq!(budget.take(1), Ok(()));
        }
        assert_eq!(budget.take(0), Err(TooManyDocuments));
        let mut budget = DocumentBudget::default();
        for _ in 0..16 {
            assert_eq!(budget.take(4 << 20), Ok(()));
        }
        assert_eq!(budget.take(1), Err(TooManyDocuments));
    }
}
