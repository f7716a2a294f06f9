//! A server in the simulation: it is slow, sleeps and dies, and its storage fails, all by a seed.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use fastrand::Rng;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use yai_agentkit_core::{Error, Result, error::Outcome};
use yai_agentkit_engine::test_kit::{Call, Mistake, Watch};

/// One call in so many fails before anything is done, and one loses its answer.
const FAILURES: u32 = 60;
/// One call in so many is the last of its server.
const DEATHS: u32 = 400;

/// A clone is the same server.
#[derive(Clone)]
pub(crate) struct Process(Arc<Shared>);

struct Shared {
    random: Mutex<Rng>,
    life: watch::Sender<Life>,
    /// A call may fail, or be the last one.
    hostile: watch::Receiver<bool>,
    mistake: Option<Mistake>,
    units: Mutex<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Life {
    Awake,
    Asleep,
    Dead,
}

/// Lives as long as a unit of work. Who sleeps or dies in one loses it to the database, which is as
/// if it had slept or died before: so that moment is put off.
pub(crate) struct OpenUnit(Process);

#[derive(Debug)]
struct Simulated;

impl fmt::Display for Simulated {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the simulation has failed this call")
    }
}

impl std::error::Error for Simulated {}

impl Process {
    pub(crate) fn new(seed: u64, hostile: watch::Receiver<bool>, mistake: Option<Mistake>) -> Self {
        Self(Arc::new(Shared {
            random: Mutex::new(Rng::with_seed(seed)),
            life: watch::Sender::new(Life::Awake),
            hostile,
            mistake,
            units: Mutex::new(0),
        }))
    }

    /// Takes its time, as long as it is not dead.
    pub(crate) async fn pause(&self) {
        self.awake().await;
        let (kind, long) = self.random(|random| (random.u8(0..100), random.u64(0..400)));
        match kind {
            0..50 => {}
            50..80 => tokio::task::yield_now().await,
            80..97 => sleep(Duration::from_millis(long / 20)).await,
            _ => sleep(Duration::from_millis(long)).await,
        }
        self.awake().await;
    }

    /// Sleeps until it is woken.
    pub(crate) fn fall_asleep(&self) {
        self.0.life.send_if_modified(|life| {
            let falls = *life == Life::Awake;
            if falls {
                *life = Life::Asleep;
            }
            falls
        });
    }

    pub(crate) fn wake(&self) {
        self.0.life.send_if_modified(|life| {
            let wakes = *life == Life::Asleep;
            if wakes {
                *life = Life::Awake;
            }
            wakes
        });
    }

    /// No call of it goes on from here.
    pub(crate) fn die(&self) {
        self.0.life.send_replace(Life::Dead);
    }

    pub(crate) fn is_dead(&self) -> bool {
        *self.0.life.borrow() == Life::Dead
    }

    async fn awake(&self) {
        let mut life = self.0.life.subscribe();
        while *life.borrow() != Life::Awake && *self.0.units.lock().unwrap() == 0 {
            // Looks again, since a unit of work may be open in another task.
            drop(timeout(Duration::from_secs(1), life.changed()).await);
        }
    }

    fn happens(&self, once_in: u32) -> bool {
        *self.0.hostile.borrow() && self.random(|random| random.u32(0..once_in)) == 0
    }

    fn random<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.0.random.lock().unwrap())
    }

    fn failure(&self, call: Call, outcome: Outcome) -> Error {
        let operation = format!("{}: {}", call.part, call.name);
        Error::unavailable(operation, outcome, Simulated)
    }
}

impl Watch for Process {
    type Unit = OpenUnit;

    async fn cross<T: Send>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        self.pause().await;
        if self.happens(FAILURES) {
            return Err(self.failure(call, Outcome::NotDone));
        }
        let done = work.await;
        if self.happens(DEATHS) {
            self.die();
        }
        self.pause().await;
        if done.is_ok() && self.happens(FAILURES) {
            return Err(self.failure(call, Outcome::Unknown));
        }
        done
    }

    fn open_unit(&self) -> OpenUnit {
        *self.0.units.lock().unwrap() += 1;
        OpenUnit(self.clone())
    }

    fn makes(&self, mistake: Mistake) -> bool {
        self.0.mistake == Some(mistake)
    }
}

impl Drop for OpenUnit {
    fn drop(&mut self) {
        *self.0.0.units.lock().unwrap() -= 1;
    }
}
