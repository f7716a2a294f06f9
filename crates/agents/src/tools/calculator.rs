//! Exact arithmetic on untrusted expressions.

use std::{
    sync::{Arc, LazyLock},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, oneshot};

const MAX_EXPRESSION: usize = 200;
const MAX_NUMBER: usize = 1_000;
const TIME_LIMIT: Duration = Duration::from_millis(250);
/// The library recurses some 50 KB deep for every parenthesis when it isn't optimised.
const STACK: usize = 32 << 20;

/// Half of the processors, so that whoever calculates leaves the other half to everybody else.
static CALCULATORS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    Arc::new(Semaphore::new((processors / 2).max(1)))
});

/// The value of `expression`; where it is not exact it begins with `approx.`. It is computed on a
/// thread of its own, and not longer than [`TIME_LIMIT`].
pub(super) async fn evaluate(expression: &str) -> Result<String, String> {
    let expression = expression.replace('（', "(").replace('）', ")");
    if expression.chars().count() > MAX_EXPRESSION {
        return Err(format!(
            "an expression has at most {MAX_EXPRESSION} characters"
        ));
    }
    // Letters would open the library's whole language: units, dates, functions that never return.
    let is_arithmetic = |c: char| c.is_ascii_digit() || " .,+-−*×/÷%^!()".contains(c);
    if let Some(other) = expression.chars().find(|c| !is_arithmetic(*c)) {
        return Err(format!("`{other}` is not arithmetic"));
    }
    let permit = Arc::clone(&CALCULATORS).acquire_owned().await;
    let deadline = Deadline(Instant::now() + TIME_LIMIT);
    let (sender, value) = oneshot::channel();
    thread::Builder::new()
        .stack_size(STACK)
        .spawn(move || {
            let _permit = permit;
            let mut context = fend_core::Context::new();
            let value = fend_core::evaluate_with_interrupt(&expression, &mut context, &deadline);
            // Nobody waits any more for a turn that was cancelled.
            let _ = sender.send(value);
        })
        .map_err(|error| format!("the calculator can't start: {error}"))?;
    let value = value
        .await
        .map_err(|_| "the calculator gave up".to_owned())?;
    match value.as_ref().map(fend_core::FendResult::get_main_result) {
        Ok("") => Err("the expression is empty".to_owned()),
        Ok(number) if number.len() > MAX_NUMBER => {
            Err(format!("the result has more than {MAX_NUMBER} digits"))
        }
        Ok(number) => Ok(number.to_owned()),
        Err(_) if deadline.has_passed() => Err("the calculation takes too long".to_owned()),
        Err(reason) => Err(reason.clone()),
    }
}

#[derive(Clone, Copy)]
struct Deadline(Instant);

impl Deadline {
    fn has_passed(self) -> bool {
        Instant::now() > self.0
    }
}

impl fend_core::Interrupt for Deadline {
    fn should_interrupt(&self) -> bool {
        self.has_passed()
    }
}
