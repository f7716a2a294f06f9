//! A server process that stops at a boundary of its turns.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use yai_agentkit_core::Result;
use yai_agentkit_engine::test_kit::{Call, Watch};

/// Where a process stops: at the call with this number, the first being 1.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Stop {
    pub(crate) boundary: usize,
    pub(crate) moment: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Moment {
    /// Nothing of the call is done.
    Before,
    /// It is done, and its answer reaches nobody.
    After,
}

impl Moment {
    pub(crate) const BOTH: [Self; 2] = [Self::Before, Self::After];
}

/// Counts every call that a process makes to what is outside of it. A clone is the same process.
#[derive(Clone)]
pub(crate) struct Process(Arc<Shared>);

struct Shared {
    stop: Option<Stop>,
    aborts: bool,
    crossed: Mutex<Vec<Boundary>>,
    stopped: watch::Sender<bool>,
    units: AtomicUsize,
}

/// Lives as long as a unit of work of the process.
pub(crate) struct OpenUnit(Process);

/// A call that was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Boundary {
    pub(crate) part: &'static str,
    pub(crate) call: &'static str,
    /// Whether the process had a unit of work open before the call, and behind it.
    in_unit: [bool; 2],
}

impl Boundary {
    pub(crate) fn is_in_unit(&self, moment: Moment) -> bool {
        self.in_unit[usize::from(moment == Moment::After)]
    }
}

impl Process {
    /// One that stops in this process: at the boundary no call of it goes on.
    pub(crate) fn new(stop: Option<Stop>) -> Self {
        Self::of(stop, false)
    }

    /// This process itself, which aborts.
    pub(crate) fn aborting(stop: Option<Stop>) -> Self {
        Self::of(stop, true)
    }

    fn of(stop: Option<Stop>, aborts: bool) -> Self {
        Self(Arc::new(Shared {
            stop,
            aborts,
            crossed: Mutex::default(),
            stopped: watch::Sender::default(),
            units: AtomicUsize::new(0),
        }))
    }

    /// Makes a call, unless the process stops before or behind it.
    pub(crate) async fn pass<T>(
        &self,
        part: &'static str,
        call: &'static str,
        work: impl Future<Output = T>,
    ) -> T {
        self.runs().await;
        let number = {
            let mut crossed = self.0.crossed.lock().unwrap();
            crossed.push(Boundary {
                part,
                call,
                in_unit: [self.is_in_unit(); 2],
            });
            crossed.len()
        };
        self.may_stop(number, Moment::Before).await;
        let done = work.await;
        self.0.crossed.lock().unwrap()[number - 1].in_unit[1] = self.is_in_unit();
        self.may_stop(number, Moment::After).await;
        self.runs().await;
        done
    }

    async fn may_stop(&self, number: usize, moment: Moment) {
        let stops = |stop: Stop| stop.boundary == number && stop.moment == moment;
        if !self.0.stop.is_some_and(stops) {
            return;
        }
        if self.0.aborts {
            std::process::abort();
        }
        self.0.stopped.send_replace(true);
        self.runs().await;
    }

    async fn runs(&self) {
        let mut stopped = self.0.stopped.subscribe();
        drop(stopped.wait_for(|stopped| !stopped).await);
    }

    /// Waits until it stops.
    pub(crate) async fn stopped(&self) {
        let mut stopped = self.0.stopped.subscribe();
        drop(stopped.wait_for(|stopped| *stopped).await);
    }

    /// Lets it go on.
    pub(crate) fn wake(&self) {
        self.0.stopped.send_replace(false);
    }

    fn is_in_unit(&self) -> bool {
        self.0.units.load(Ordering::SeqCst) > 0
    }

    /// What was called until now.
    pub(crate) fn crossed(&self) -> Vec<Boundary> {
        self.0.crossed.lock().unwrap().clone()
    }
}

impl Watch for Process {
    type Unit = OpenUnit;

    async fn cross<T: Send>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        self.pass(call.part, call.name, work).await
    }

    fn open_unit(&self) -> OpenUnit {
        self.0.units.fetch_add(1, Ordering::SeqCst);
        OpenUnit(self.clone())
    }
}

impl Drop for OpenUnit {
    fn drop(&mut self) {
        self.0.0.units.fetch_sub(1, Ordering::SeqCst);
    }
}
