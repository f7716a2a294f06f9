use std::io::{IsTerminal, Write, stderr, stdout};

use yai_agentkit_core::error::BoxError;
use yai_agentkit_engine::{TurnEvent, TurnOutcome};

/// What a person at a terminal is shown of a turn while it runs; other programs get the answer alone.
pub(super) struct Telling {
    is_terminal: bool,
    /// What the agent has said in the text under way.
    said: String,
}

/// What a turn comes to.
pub(super) enum Outcome {
    Answered(String),
    Asks(String),
}

impl From<TurnOutcome> for Outcome {
    fn from(outcome: TurnOutcome) -> Self {
        match outcome {
            TurnOutcome::Answered(answer) => Self::Answered(answer.content),
            TurnOutcome::Waiting(turn) => {
                let question = turn.interrupt.map(|asked| asked.question);
                Self::Asks(question.unwrap_or_default())
            }
        }
    }
}

impl Default for Telling {
    fn default() -> Self {
        Self {
            is_terminal: stdout().is_terminal() && stderr().is_terminal(),
            said: String::new(),
        }
    }
}

impl Telling {
    pub(super) fn tell(&mut self, event: &TurnEvent) -> Result<(), BoxError> {
        if !self.is_terminal {
            return Ok(());
        }
        match event {
            TurnEvent::TextStarted { .. } => self.end_line()?,
            TurnEvent::TextSaid { delta, .. } => {
                self.said.push_str(delta);
                write!(stdout(), "{delta}")?;
                stdout().flush()?;
            }
            TurnEvent::TextEnded { is_void: true, .. } => {
                self.end_line()?;
                eprintln!("(taken back)");
            }
            TurnEvent::ToolCalled { call, .. } => {
                self.end_line()?;
                anstream::eprintln!("\x1b[2m→ {} {}\x1b[0m", call.name, call.arguments);
            }
            _ => {}
        }
        Ok(())
    }

    /// Shows the answer, as far as it was not shown, or what the agent asks: then the next thing said
    /// is the answer to that.
    pub(super) fn end(mut self, outcome: Result<Outcome, BoxError>) -> Result<(), BoxError> {
        match outcome {
            Ok(Outcome::Answered(answer)) => {
                let rest = answer.strip_prefix(&self.said);
                if rest.is_none() {
                    self.end_line()?;
                }
                writeln!(stdout(), "{}", rest.unwrap_or(&answer))?;
            }
            Ok(Outcome::Asks(question)) => {
                self.end_line()?;
                eprintln!("The agent asks; answer with what you say next:");
                writeln!(stdout(), "{question}")?;
            }
            Err(error) => {
                self.end_line()?;
                return Err(error);
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), BoxError> {
        if !std::mem::take(&mut self.said).is_empty() {
            writeln!(stdout())?;
        }
        Ok(())
    }
}
