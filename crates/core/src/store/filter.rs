//! What a search asks of a value.

use std::cmp::Ordering;

use serde_json::{Map, Value as Json};

use crate::{Error, Result, validate};

/// Conditions, all of which a value must meet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter(Vec<Condition>);

/// A test of what stands at one place of a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// The way there.
    pub path: Vec<Step>,
    /// The test.
    pub test: Test,
}

/// A step into a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// To a field of an object.
    Field(String),
    /// To an item of an array.
    Item(usize),
}

/// A test of one value. What is not there is null.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// It is equal; numbers are by their value.
    Is(Json),
    /// It is not.
    IsNot(Json),
    /// It is an object.
    IsObject,
    /// It is an array of so many items.
    IsArray(usize),
    /// It is a number, or a text, and compares so with another one. Texts compare by their bytes.
    Compares(Comparison, Json),
}

/// How a value compares with that of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `$gt`
    Greater,
    /// `$gte`
    GreaterOrEqual,
    /// `$lt`
    Less,
    /// `$lte`
    LessOrEqual,
}

impl Comparison {
    /// The operator, in SQL too.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
        }
    }

    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
        }
    }
}

impl Filter {
    /// A filter as LangGraph's: by field what it must be, or operators on it (`$eq`, `$ne`, `$gt`,
    /// `$gte`, `$lt`, `$lte`). An object must have these fields and may have others, an array must
    /// have these items.
    pub fn parse(filter: &Map<String, Json>) -> Result<Self> {
        let mut conditions = Vec::new();
        for (field, wanted) in filter {
            validate::json("filter", wanted)?;
            validate::text("filter", field)?;
            read(vec![Step::Field(field.clone())], wanted, &mut conditions)?;
        }
        Ok(Self(conditions))
    }

    /// The conditions.
    pub fn conditions(&self) -> &[Condition] {
        &self.0
    }

    /// Whether it takes a value.
    pub fn matches(&self, value: &Json) -> bool {
        self.0.iter().all(|condition| condition.holds(value))
    }
}

fn read(path: Vec<Step>, wanted: &Json, conditions: &mut Vec<Condition>) -> Result<()> {
    let below = |step| {
        let mut path = path.clone();
        path.push(step);
        path
    };
    let test = match wanted {
        Json::Object(fields) if fields.keys().any(|field| field.starts_with('$')) => {
            for (operator, operand) in fields {
                let test = operation(operator, operand)?;
                let path = path.clone();
                conditions.push(Condition { path, test });
            }
            return Ok(());
        }
        Json::Object(fields) => {
            for (field, wanted) in fields {
                read(below(Step::Field(field.clone())), wanted, conditions)?;
            }
            Test::IsObject
        }
        Json::Array(items) => {
            for (place, wanted) in items.iter().enumerate() {
                read(below(Step::Item(place)), wanted, conditions)?;
            }
            Test::IsArray(items.len())
        }
        plain => Test::Is(plain.clone()),
    };
    conditions.push(Condition { path, test });
    Ok(())
}

fn operation(operator: &str, operand: &Json) -> Result<Test> {
    let comparison = match operator {
        "$eq" => return Ok(Test::Is(operand.clone())),
        "$ne" => return Ok(Test::IsNot(operand.clone())),
        "$gt" => Comparison::Greater,
        "$gte" => Comparison::GreaterOrEqual,
        "$lt" => Comparison::Less,
        "$lte" => Comparison::LessOrEqual,
        other => {
            let known = "$eq, $ne, $gt, $gte, $lt and $lte";
            let reason = format!("{other} is no operator: there are {known}");
            return Err(Error::invalid("filter", reason));
        }
    };
    if !operand.is_number() && !operand.is_string() {
        let reason = format!("{operator} compares with a number or a text, not with {operand}");
        return Err(Error::invalid("filter", reason));
    }
    Ok(Test::Compares(comparison, operand.clone()))
}

impl Condition {
    fn holds(&self, value: &Json) -> bool {
        let found = self.path.iter().try_fold(value, |value, step| match step {
            Step::Field(name) => value.as_object()?.get(name),
            Step::Item(place) => value.as_array()?.get(*place),
        });
        let found = found.unwrap_or(&Json::Null);
        match &self.test {
            Test::Is(wanted) => equal(found, wanted),
            Test::IsNot(wanted) => !equal(found, wanted),
            Test::IsObject => found.is_object(),
            Test::IsArray(length) => found.as_array().is_some_and(|items| items.len() == *length),
            Test::Compares(comparison, wanted) => {
                compare(found, wanted).is_some_and(|ordering| comparison.holds(ordering))
            }
        }
    }
}

fn equal(value: &Json, other: &Json) -> bool {
    match (value, other) {
        (Json::Object(a), Json::Object(b)) => {
            let in_b = |(field, value)| b.get(field).is_some_and(|other| equal(value, other));
            a.len() == b.len() && a.iter().all(in_b)
        }
        (Json::Array(a), Json::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
        }
        (Json::Number(_), Json::Number(_)) => compare(value, other) == Some(Ordering::Equal),
        _ => value == other,
    }
}

fn compare(value: &Json, other: &Json) -> Option<Ordering> {
    match (value, other) {
        (Json::String(a), Json::String(b)) => Some(a.cmp(b)),
        (Json::Number(a), Json::Number(b)) => match (integer(a), integer(b)) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
        },
        _ => None,
    }
}

fn integer(number: &serde_json::Number) -> Option<i128> {
    let signed = number.as_i64().map(i128::from);
    signed.or_else(|| number.as_u64().map(i128::from))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn takes(filter: Json, value: &Json) -> bool {
        let Json::Object(filter) = filter else {
            panic!("{filter} is no filter");
        };
        Filter::parse(&filter).unwrap().matches(value)
    }

    #[test]
    fn values_are_compared_as_what_they_are() {
        let value = json!({"number": 10, "text": "9", "flag": true, "nothing": null});
        for (filter, expected) in [
            (json!({"number": 10.0}), true),
            (json!({"number": "10"}), false),
            (json!({"number": {"$gt": 9}}), true),
            (json!({"number": {"$gt": 9, "$lt": 10}}), false),
            (json!({"text": {"$gt": 8}}), false),
            (json!({"text": {"$gte": "9"}}), true),
            (json!({"flag": true}), true),
            (json!({"flag": 1}), false),
            (json!({"nothing": null, "absent": null}), true),
            (json!({"absent": {"$ne": 1}}), true),
            (json!({"nothing": {"$lt": 1}}), false),
        ] {
            assert_eq!(takes(filter.clone(), &value), expected, "{filter}");
        }
    }

    #[test]
    fn objects_may_have_more_and_arrays_may_not() {
        let value = json!({"a": {"b": 1, "c": [1, {"d": 2, "e": 3}]}});
        for (filter, expected) in [
            (json!({"a": {"b": 1}}), true),
            (json!({"a": {"c": [1, {"d": 2}]}}), true),
            (json!({"a": {"c": [1]}}), false),
            (json!({"a": {"c": [1, {"d": {"$gt": 2}}]}}), false),
            (json!({"a": {"$eq": {"b": 1}}}), false),
            (json!({"a": {"b": {}}}), false),
            (json!({"a": {"absent": null}}), true),
            (json!({"absent": {"b": null}}), false),
        ] {
            assert_eq!(takes(filter.clone(), &value), expected, "{filter}");
        }
    }

    #[test]
    fn what_is_no_operator_is_refused() {
        for filter in [
            json!({"a": {"$in": [1]}}),
            json!({"a": {"$gt": 1, "b": 2}}),
            json!({"a": {"$gt": null}}),
            json!({"a": {"$lt": [1]}}),
        ] {
            let refused = Filter::parse(filter.as_object().unwrap()).unwrap_err();
            assert!(matches!(refused, Error::InvalidInput { .. }), "{refused}");
        }
    }
}
