//! Random sequences of operations, which must do the same to a storage as to the in-memory one.

mod checkpoints;
mod rows;

use std::{fmt::Debug, sync::Arc};

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use yai_agentkit_core::{
    CheckpointId, Checkpointer, Conversation, Message, PutOptions, Repository, Result, Storage,
    ThreadId, Turn, UnitOfWork, memory::MemoryStorage,
};

use super::{Case, fixtures::listed_until};

use checkpoints::CheckpointOperation;
use rows::RowOperation;

pub(super) const CASES: &[Case] = cases!["model":
    random_operations_do_the_same_as_in_memory,
];

/// One step of a sequence. Its numbers name one of the few threads, rows and so on of a run.
#[derive(Clone, Debug)]
pub struct Step(Kind);

#[derive(Clone, Debug)]
enum Kind {
    /// A transaction of its own.
    Alone(Operation),
    /// A unit of work, which is dropped after the first error.
    Unit {
        operations: Vec<Operation>,
        commits: bool,
    },
}

#[derive(Clone, Debug)]
enum Operation {
    Checkpoints(CheckpointOperation),
    Rows(RowOperation),
}

/// Sequences of steps, for a property test.
pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let operation = || {
        prop_oneof![
            3 => checkpoints::operation().prop_map(Operation::Checkpoints),
            2 => rows::operation().prop_map(Operation::Rows),
        ]
    };
    let step = prop_oneof![
        9 => operation().prop_map(Kind::Alone),
        1 => (vec(operation(), 0..5), any::<bool>())
            .prop_map(|(operations, commits)| Kind::Unit { operations, commits }),
    ];
    vec(step.prop_map(Step), 1..60)
}

/// Takes the steps on `subject` and in memory, and compares every result and all that is left.
/// The error says where they differ.
pub async fn agree(subject: &dyn Storage, steps: &[Step]) -> Result<(), String> {
    let model = MemoryStorage::default();
    let pair = Pair {
        subject: Parts::of(subject),
        model: Parts::of(&model),
    };
    let names = Names::new();
    let marker = names.mark(&pair).await;
    for (number, step) in steps.iter().enumerate() {
        let outcome = match &step.0 {
            Kind::Alone(operation) => operation.run(&pair, &names).await.map(drop),
            Kind::Unit {
                operations,
                commits,
            } => run_unit([subject, &model], operations, *commits, &names).await,
        };
        outcome.map_err(|difference| format!("step {number}: {difference}"))?;
    }
    checkpoints::compare_all(&pair, &names, &marker).await?;
    rows::compare_all(&pair, &names).await?;
    names.clear(&pair.subject).await;
    Ok(())
}

async fn random_operations_do_the_same_as_in_memory(storage: Arc<dyn Storage>) {
    let runtime = tokio::runtime::Handle::current();
    let test = tokio::task::spawn_blocking(move || {
        let config = Config {
            failure_persistence: None,
            ..Config::default()
        };
        TestRunner::new(config).run(&steps(), |steps| {
            runtime
                .block_on(agree(&*storage, &steps))
                .map_err(TestCaseError::fail)
        })
    });
    if let Err(failure) = test.await.expect("a call panicked") {
        panic!("{failure}");
    }
}

async fn run_unit(
    [subject, model]: [&dyn Storage; 2],
    operations: &[Operation],
    commits: bool,
    names: &Names,
) -> Result<(), String> {
    let text = |error| format!("a unit of work failed: {error:?}");
    let units = [
        subject.begin().await.map_err(text)?,
        model.begin().await.map_err(text)?,
    ];
    let pair = Pair {
        subject: Parts::within(&*units[0]),
        model: Parts::within(&*units[1]),
    };
    for operation in operations {
        let succeeded = operation.run(&pair, names).await?;
        if !succeeded {
            return Ok(());
        }
    }
    if commits {
        for unit in units {
            unit.commit().await.map_err(text)?;
        }
    }
    Ok(())
}

impl Operation {
    /// Whether it succeeded, on both alike.
    async fn run(&self, pair: &Pair, names: &Names) -> Result<bool, String> {
        let outcome = match self {
            Self::Checkpoints(operation) => operation.run(pair, names).await,
            Self::Rows(operation) => operation.run(pair, names).await,
        };
        outcome.map_err(|difference| format!("{self:?}: {difference}"))
    }
}

/// What a storage and a unit of work have in common.
struct Parts {
    conversations: Arc<dyn Repository<Conversation>>,
    messages: Arc<dyn Repository<Message>>,
    turns: Arc<dyn Repository<Turn>>,
    checkpointer: Arc<dyn Checkpointer>,
}

impl Parts {
    fn of(storage: &dyn Storage) -> Self {
        Self {
            conversations: storage.conversations(),
            messages: storage.messages(),
            turns: storage.turns(),
            checkpointer: storage.checkpointer(),
        }
    }

    fn within(unit: &dyn UnitOfWork) -> Self {
        Self {
            conversations: unit.conversations(),
            messages: unit.messages(),
            turns: unit.turns(),
            checkpointer: unit.checkpointer(),
        }
    }
}

struct Pair {
    subject: Parts,
    model: Parts,
}

impl Pair {
    /// Makes the call on both. Whether it succeeded; an error where the results differ.
    async fn same<T: PartialEq + Debug>(
        &self,
        call: impl AsyncFn(&Parts) -> Result<T>,
    ) -> Result<bool, String> {
        let subject = call(&self.subject).await;
        let model = call(&self.model).await;
        let agree = match (&subject, &model) {
            (Ok(subject), Ok(model)) => subject == model,
            // Which id and which words an error holds is not part of the contract.
            (Err(subject), Err(model)) => {
                std::mem::discriminant(subject) == std::mem::discriminant(model)
            }
            _ => false,
        };
        if agree {
            Ok(subject.is_ok())
        } else {
            Err(format!("{subject:#?}\nwhere the model has\n{model:#?}"))
        }
    }
}

/// What the numbers of operations stand for: ids of this run alone.
struct Names {
    run: String,
    /// By slot, then namespace, so that no two namespaces share an id and all are in one order.
    checkpoints: Vec<Vec<CheckpointId>>,
    conversations: Vec<rows::ConversationNames>,
}

impl Names {
    fn new() -> Self {
        let mut last = None;
        let mut next = || {
            let id = CheckpointId::after(last.as_ref());
            last = Some(id.clone());
            id
        };
        let slots = 0..checkpoints::SLOTS;
        Self {
            run: super::fixtures::fresh(),
            checkpoints: slots
                .map(|_| checkpoints::NAMESPACES.map(|_| next()).to_vec())
                .collect(),
            conversations: (0..rows::CONVERSATIONS)
                .map(|_| rows::ConversationNames::new())
                .collect(),
        }
    }

    fn thread(&self, number: u8) -> ThreadId {
        format!("{} {number}", self.run).into()
    }

    /// A thread that is older than all that the run writes.
    async fn mark(&self, pair: &Pair) -> ThreadId {
        let marker = self.thread(u8::MAX);
        let put = checkpoints::marker(&marker);
        for parts in [&pair.subject, &pair.model] {
            parts
                .checkpointer
                .put(put.clone(), PutOptions::default())
                .await
                .unwrap();
        }
        super::fixtures::moment().await;
        marker
    }

    /// Leaves no trace of the run, for the lists of others stay short.
    async fn clear(&self, parts: &Parts) {
        for thread in (0..checkpoints::THREADS).chain([u8::MAX]) {
            let thread = self.thread(thread);
            parts.checkpointer.delete_thread(&thread).await.unwrap();
        }
        for conversation in &self.conversations {
            parts.conversations.delete(&conversation.id).await.unwrap();
        }
    }
}
