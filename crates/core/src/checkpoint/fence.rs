use crate::{Error, Result};

/// What a fenced write asks of the epoch of its thread, so that of several processes that believe
/// to own a thread only the last one writes.
///
/// A thread begins with epoch 0. Who takes it over writes with [`Raise`](Self::Raise) and an epoch
/// that nobody has used for this thread, then with [`Hold`](Self::Hold) and the same. From the
/// moment on that a thread is raised, every `Hold` with an older epoch is
/// [`Error::Fenced`], however late it comes, and nothing is written. Deleting a thread ends its
/// epoch: a `Hold` never brings a thread back.
///
/// Writes without a fence (LangGraph's) are neither refused nor do they change the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// The thread's epoch must be less than this, and becomes it. A thread that does not exist
    /// begins with it. After [`Error::Unavailable`] it is unknown whether the thread was raised.
    Raise(u64),
    /// The thread must exist and have this epoch.
    Hold(u64),
}

/// What [`Checkpointer::put`](crate::Checkpointer::put) asks of the thread before it writes. The
/// default asks nothing, as LangGraph.
///
/// ```
/// use yai_agentkit_core::{Fence, PutOptions, checkpoint::Parent};
///
/// let owner = PutOptions::from(Fence::Hold(3));
/// assert_eq!(owner.parent, Parent::Any);
/// let follower = PutOptions::following_latest();
/// assert_eq!((follower.fence, follower.parent), (None, Parent::Latest));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PutOptions {
    /// What it asks of the thread's epoch.
    pub fence: Option<Fence>,
    /// What it asks of the checkpoint's parent.
    pub parent: Parent,
}

impl PutOptions {
    /// The checkpoint must follow the latest.
    pub fn following_latest() -> Self {
        Self {
            parent: Parent::Latest,
            ..Self::default()
        }
    }

    /// Asks `fence` too.
    #[must_use]
    pub fn fenced(mut self, fence: Fence) -> Self {
        self.fence = Some(fence);
        self
    }
}

impl From<Fence> for PutOptions {
    fn from(fence: Fence) -> Self {
        Self::default().fenced(fence)
    }
}

/// Which parent a new checkpoint may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parent {
    /// Any, or none: a thread may fork.
    #[default]
    Any,
    /// The latest checkpoint of its namespace; none where there is none. For those who share a
    /// thread without a [`Fence`]: of two that start from one checkpoint the second is refused, and
    /// the thread does not fork.
    Latest,
}

impl Fence {
    /// The epoch.
    pub fn epoch(self) -> u64 {
        match self {
            Self::Raise(epoch) | Self::Hold(epoch) => epoch,
        }
    }

    /// The epoch as databases store it; 0, and what 63 bits can't hold, is refused.
    pub fn stored_epoch(self) -> Result<i64> {
        let epoch = i64::try_from(self.epoch()).ok().filter(|epoch| *epoch > 0);
        epoch.ok_or_else(|| Error::invalid("epoch", "must be between 1 and 2^63 - 1"))
    }

    /// Whether a thread with the epoch `stored` admits the write; `None` where there is no thread.
    pub fn admits(self, stored: Option<u64>) -> bool {
        match self {
            Self::Raise(epoch) => stored.is_none_or(|stored| stored < epoch),
            Self::Hold(epoch) => stored == Some(epoch),
        }
    }
}
