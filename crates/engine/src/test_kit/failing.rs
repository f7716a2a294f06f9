//! A storage in memory that fails while it is told to.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use yai_agentkit_core::{
    ChannelValue, Checkpoint, Error, Result, Storage, error::Outcome, memory::MemoryStorage,
};

use super::watched::{Call, Watch, Watched};

/// A storage in memory that fails while it is told to, and counts.
pub type FailingStorage = Watched<Arc<dyn Storage>, Failures>;

impl Default for FailingStorage {
    fn default() -> Self {
        Self::new(Arc::new(MemoryStorage::default()), Failures::default())
    }
}

/// How a [`FailingStorage`] fails, and what it has counted. A clone is the same.
#[derive(Clone, Default)]
pub struct Failures {
    /// Whether what changes something fails, units of work and pings too.
    pub fails: Arc<AtomicBool>,
    /// Whether every call panics.
    pub panics: Arc<AtomicBool>,
    /// How many calls there were.
    pub calls: Arc<AtomicU64>,
    /// Bytes of the values of checkpoints that were read.
    pub bytes_read: Arc<AtomicU64>,
    /// Bytes of the values of checkpoints that were written.
    pub bytes_written: Arc<AtomicU64>,
}

impl Watch for Failures {
    type Unit = ();

    async fn cross<T: Send>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        assert!(!self.panics.load(Ordering::SeqCst), "secret panic");
        if call.changes && self.fails.load(Ordering::SeqCst) {
            let cause = "SELECT secret FROM table";
            return Err(Error::unavailable(call.name, Outcome::NotDone, cause));
        }
        work.await
    }

    fn open_unit(&self) {}

    fn read(&self, checkpoint: &Checkpoint) {
        self.bytes_read
            .fetch_add(size(checkpoint), Ordering::SeqCst);
    }

    fn written(&self, checkpoint: &Checkpoint) {
        self.bytes_written
            .fetch_add(size(checkpoint), Ordering::SeqCst);
    }
}

/// Bytes of its values.
fn size(checkpoint: &Checkpoint) -> u64 {
    let values = checkpoint.channel_values.values().map(|value| match value {
        ChannelValue::Inline(json) => json.to_string().len(),
        ChannelValue::Stored(value) | ChannelValue::DeltaSnapshot(value) => value.bytes().len(),
    });
    values.sum::<usize>() as u64
}
