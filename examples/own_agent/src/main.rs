//! A barista in AgentKit's server, who pours once somebody has approved, and keeps the tab.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use yai_agentkit_core::{Role, error::BoxError};
use yai_agentkit_engine::agent::*;
use yai_agentkit_server::{serve::serve, settings::Settings};

/// What the agent knows in a conversation, stored with every step.
#[derive(Default, Serialize, Deserialize)]
struct Tab {
    drinks: Vec<String>,
}

/// The arguments of its tool; a model would be told their JSON schema.
#[derive(Deserialize, JsonSchema)]
struct Order {
    drink: String,
}

struct Barista(Toolbox<Tab>);

#[async_trait::async_trait]
impl Agent for Barista {
    type State = Tab;

    async fn step(&self, turn: &Context, state: &mut AgentState<Tab>) -> Result<Step, AgentError> {
        let last = state.messages.last().expect("an order, or a drink");
        tracing::info!(turn = %turn.turn_id(), attempt = turn.attempt(), "heard: {}", last.content);
        if last.role == Role::Tool {
            let drinks = state.own.drinks.len();
            let answer = format!("{} Drinks so far: {drinks}.", last.content);
            return Ok(Step::Answer(answer));
        }
        let order = serde_json::json!({ "drink": last.content });
        let id = format!("call_{}", state.messages.total());
        Ok(Step::calls([ToolCall::new(id, "pour", order)]))
    }

    fn tools(&self) -> &dyn Tools<Tab> {
        &self.0
    }
}

fn pour(order: Order, state: &mut AgentState<Tab>) -> Result<String, String> {
    let result = format!("Here is your {}.", order.drink);
    state.own.drinks.push(order.drink);
    Ok(result)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let pour = Tool::new("pour", "Pours a drink.", pour).needs_approval();
    let barista = Barista(Toolbox::new([pour]));
    serve(Settings::read(&Default::default())?, Arc::new(barista)).await
}
