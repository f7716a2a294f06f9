//! What both databases keep of a value.

use chrono::SubsecRound;
use sea_orm::{EntityTrait, Iterable, ModelTrait, Value, sea_query::ArrayType};

/// Cuts times to the microsecond.
pub(crate) fn truncate_times<M: ModelTrait>(model: &mut M) {
    for column in <M::Entity as EntityTrait>::Column::iter() {
        // The type tells without a copy of the value.
        let kept = match M::get_value_type(column) {
            ArrayType::ChronoTime
            | ArrayType::ChronoDateTime
            | ArrayType::ChronoDateTimeUtc
            | ArrayType::ChronoDateTimeLocal
            | ArrayType::ChronoDateTimeWithTimeZone => truncated(model.get(column)),
            _ => continue,
        };
        model.set(column, kept);
    }
}

fn truncated(value: Value) -> Value {
    fn to_microseconds<T: SubsecRound>(time: Option<T>) -> Value
    where
        Option<T>: Into<Value>,
    {
        time.map(|time| time.trunc_subsecs(6)).into()
    }
    match value {
        Value::ChronoTime(time) => to_microseconds(time),
        Value::ChronoDateTime(time) => to_microseconds(time),
        Value::ChronoDateTimeUtc(time) => to_microseconds(time),
        Value::ChronoDateTimeLocal(time) => to_microseconds(time),
        Value::ChronoDateTimeWithTimeZone(time) => to_microseconds(time),
        other => other,
    }
}
