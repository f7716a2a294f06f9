use std::{borrow::Cow, sync::Arc};

use async_trait::async_trait;
use futures::future::BoxFuture;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value as Json;

use super::{AgentState, Context, ToolCall};

/// Characters of a result that are kept.
const MAX_RESULT: usize = 1 << 16;

/// What an agent with the state `S` can do besides talking.
#[async_trait]
pub trait Tools<S: Default>: Send + Sync {
    /// What a model is told of them, in this order.
    fn specs(&self) -> Vec<ToolSpec> {
        Vec::new()
    }

    /// Whether one of them has this name.
    fn has(&self, name: &str) -> bool {
        self.specs().iter().any(|spec| spec.name == name)
    }

    /// What the tool of this call is like.
    fn traits(&self, call: &ToolCall) -> ToolTraits {
        let spec = self.specs().into_iter().find(|spec| spec.name == call.name);
        // One that is not there has no effect.
        spec.map_or(ToolTraits::repeatable(), |spec| spec.traits)
    }

    /// Runs one tool; it may change the agent's [own](AgentState::own) state. A tool that fails says
    /// so in its result, for the agent to read. The calls of one step run at once, each on a state of
    /// its own. `answer` is a person's, where the tool has asked for it.
    async fn run(
        &self,
        context: &Context,
        call: &ToolCall,
        state: &mut AgentState<S>,
        answer: Option<&str>,
    ) -> ToolOutcome;
}

/// A tool as a model is told of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolSpec {
    /// How a [`ToolCall`] names it.
    pub name: Cow<'static, str>,
    /// What it does.
    pub description: Cow<'static, str>,
    /// The JSON schema of its arguments, an object.
    pub parameters: Json,
    /// What it is like.
    pub traits: ToolTraits,
}

/// What counts about a tool for who runs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ToolTraits {
    /// Whether running a call twice does no more than running it once. One that is not repeatable
    /// never runs again by itself once it has begun: where a crash leaves open what came of it, the
    /// turn asks a person.
    pub is_repeatable: bool,
    /// Whether a person has to approve of each call before it runs.
    pub needs_approval: bool,
    /// Whether it is to be run on a state that has all messages of the chat, which are read for it.
    pub reads_all_messages: bool,
}

impl ToolTraits {
    /// Of a tool that may run again.
    pub fn repeatable() -> Self {
        Self {
            is_repeatable: true,
            ..Self::default()
        }
    }
}

/// What a tool has come to.
#[derive(Clone, Debug, PartialEq)]
pub enum ToolOutcome {
    /// Its result, for the agent to read.
    Result(String),
    /// It has done nothing yet, and wants the answer of a person first. Then it runs again, with
    /// the answer.
    Ask(String),
}

/// How the result of a tool that failed begins.
pub(crate) const FAILED: &str = "Error: ";

impl ToolOutcome {
    /// That it failed, for the agent to read.
    pub fn failed(reason: impl std::fmt::Display) -> Self {
        Self::Result(format!("{FAILED}{reason}"))
    }
}

/// No tools.
pub struct NoTools;

/// A function as a tool.
pub struct Tool<S: Default> {
    spec: ToolSpec,
    run: Run<S>,
}

type Inline<S> = dyn Fn(&ToolCall, &mut AgentState<S>) -> Result<String, String> + Send + Sync;
type Future = BoxFuture<'static, Result<String, String>>;
type Outside = dyn Fn(Context, &ToolCall) -> Result<Future, String> + Send + Sync;

enum Run<S: Default> {
    Inline(Box<Inline<S>>),
    Outside(Box<Outside>),
}

impl<S: Default> Tool<S> {
    /// A tool that works at once on the agent's state. Its arguments are as the type of `run`'s says,
    /// which is described to the model; an `Err` is the reason of its failure, for the agent to read.
    pub fn new<A: DeserializeOwned + JsonSchema>(
        name: &'static str,
        description: &'static str,
        run: impl Fn(A, &mut AgentState<S>) -> Result<String, String> + Send + Sync + 'static,
    ) -> Self {
        let run = move |call: &ToolCall, state: &mut AgentState<S>| run(arguments(call)?, state);
        Self::with::<A>(name, description, Run::Inline(Box::new(run)))
    }

    /// A tool that takes its time, or has an effect outside. The context has a
    /// [key](Context::step_key) for who can tell a repetition.
    pub fn outside<A, F>(
        name: &'static str,
        description: &'static str,
        run: impl Fn(Context, A) -> F + Send + Sync + 'static,
    ) -> Self
    where
        A: DeserializeOwned + JsonSchema,
        F: std::future::Future<Output = Result<String, String>> + Send + 'static,
    {
        let run = move |context: Context, call: &ToolCall| -> Result<Future, String> {
            Ok(Box::pin(run(context, arguments(call)?)))
        };
        Self::with::<A>(name, description, Run::Outside(Box::new(run)))
    }

    fn with<A: JsonSchema>(name: &'static str, description: &'static str, run: Run<S>) -> Self {
        let mut settings = SchemaSettings::draft07();
        settings.inline_subschemas = true;
        settings.meta_schema = None;
        let schema = settings.into_generator().into_root_schema_for::<A>();
        let mut parameters = schema.to_value();
        if let Some(schema) = parameters.as_object_mut() {
            schema.remove("title");
            schema.remove("description");
            schema.entry("type").or_insert("object".into());
            schema
                .entry("properties")
                .or_insert(Json::Object(Default::default()));
        }
        let spec = ToolSpec {
            name: name.into(),
            description: description.into(),
            parameters,
            traits: ToolTraits::default(),
        };
        Self { spec, run }
    }

    /// The same tool, which may run again: see [`ToolTraits::is_repeatable`].
    #[must_use]
    pub fn repeatable(mut self) -> Self {
        self.spec.traits.is_repeatable = true;
        self
    }

    /// The same tool, of which a person has to approve each time.
    #[must_use]
    pub fn needs_approval(mut self) -> Self {
        self.spec.traits.needs_approval = true;
        self
    }

    /// The same tool, on all messages of the chat.
    #[must_use]
    pub fn reads_all_messages(mut self) -> Self {
        self.spec.traits.reads_all_messages = true;
        self
    }

    async fn run(
        &self,
        context: &Context,
        call: &ToolCall,
        state: &mut AgentState<S>,
    ) -> Result<String, String> {
        match &self.run {
            Run::Inline(run) => run(call, state),
            Run::Outside(run) => run(context.clone(), call)?.await,
        }
    }
}

fn arguments<A: DeserializeOwned>(call: &ToolCall) -> Result<A, String> {
    let arguments = A::deserialize(&call.arguments);
    arguments.map_err(|error| format!("the arguments do not fit `{}`: {error}", call.name))
}

/// Functions as tools, and the tools of others beside them.
pub struct Toolbox<S: Default> {
    tools: Vec<Tool<S>>,
    others: Vec<Arc<dyn Tools<S>>>,
}

impl<S: Default> Toolbox<S> {
    /// Without the tools of others.
    pub fn new(tools: impl IntoIterator<Item = Tool<S>>) -> Self {
        Self {
            tools: tools.into_iter().collect(),
            others: Vec::new(),
        }
    }

    /// With the tools of `others`, as far as their names are free.
    #[must_use]
    pub fn with(mut self, others: Arc<dyn Tools<S>>) -> Self {
        self.others.push(others);
        self
    }

    fn find(&self, name: &str) -> Option<&Tool<S>> {
        self.tools.iter().find(|tool| tool.spec.name == name)
    }

    fn other(&self, name: &str) -> Option<&Arc<dyn Tools<S>>> {
        let mut others = self.others.iter();
        others.find(|tools| tools.has(name))
    }

    /// Notes with a call what its tool is like, where that is not for this program to say: it counts
    /// as long as the call does. Who calls it has no say in that.
    pub fn note_traits(&self, call: &mut ToolCall) {
        if self.find(&call.name).is_none()
            && let Some(others) = self.other(&call.name)
        {
            call.traits = None;
            call.traits = Some(others.traits(call));
        }
    }
}

#[async_trait]
impl<S: Default + Send + Sync> Tools<S> for Toolbox<S> {
    fn specs(&self) -> Vec<ToolSpec> {
        let mut specs: Vec<_> = self.tools.iter().map(|tool| tool.spec.clone()).collect();
        for others in &self.others {
            for spec in others.specs() {
                if specs.iter().all(|known| known.name != spec.name) {
                    specs.push(spec);
                }
            }
        }
        specs
    }

    fn has(&self, name: &str) -> bool {
        self.find(name).is_some() || self.other(name).is_some()
    }

    fn traits(&self, call: &ToolCall) -> ToolTraits {
        match (self.find(&call.name), self.other(&call.name)) {
            (Some(tool), _) => tool.spec.traits,
            (None, Some(others)) => others.traits(call),
            (None, None) => ToolTraits::repeatable(),
        }
    }

    async fn run(
        &self,
        context: &Context,
        call: &ToolCall,
        state: &mut AgentState<S>,
        answer: Option<&str>,
    ) -> ToolOutcome {
        let result = match (self.find(&call.name), self.other(&call.name)) {
            (Some(tool), _) => tool.run(context, call, state).await,
            (None, Some(others)) => match others.run(context, call, state, answer).await {
                ToolOutcome::Result(result) => Ok(result),
                asks => return asks,
            },
            (None, None) => Err(format!("there is no tool `{}`", call.name)),
        };
        let text = result.unwrap_or_else(|reason| format!("{FAILED}{reason}"));
        ToolOutcome::Result(match text.char_indices().nth(MAX_RESULT) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        })
    }
}

#[async_trait]
impl<S: Default + Send + Sync> Tools<S> for NoTools {
    async fn run(
        &self,
        _: &Context,
        call: &ToolCall,
        _: &mut AgentState<S>,
        _: Option<&str>,
    ) -> ToolOutcome {
        ToolOutcome::failed(format_args!("there is no tool `{}`", call.name))
    }
}
