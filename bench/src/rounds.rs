//! Measuring in rounds: in one, contenders follow one another directly, so that a change of the
//! machine meets all of them alike.

use std::cmp::Ordering;

use crate::Result;

/// What `measure` finds of each contender, once for each of its `rounds`; it is told which one. Every
/// second round goes backwards, so that nobody is always the one after the same other.
pub(crate) async fn measure<C, M>(
    contenders: &[C],
    rounds: impl Fn(&C) -> usize,
    mut measure: impl AsyncFnMut(&C, usize) -> Result<M>,
) -> Result<Vec<Vec<M>>> {
    let mut measured: Vec<Vec<M>> = contenders.iter().map(|_| Vec::new()).collect();
    for round in 0..contenders.iter().map(&rounds).max().unwrap_or(0) {
        let mut order: Vec<_> = contenders.iter().zip(&mut measured).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for (contender, found) in order {
            if round < rounds(contender) {
                found.push(measure(contender, round).await?);
            }
        }
    }
    Ok(measured)
}

/// The value in the middle.
pub(crate) fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> T {
    values.sort_unstable_by(|one, other| one.partial_cmp(other).unwrap_or(Ordering::Equal));
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_second_round_goes_backwards() -> Result<()> {
        let mut order = String::new();
        let measured = measure(
            &["a", "b", "once"],
            |name| if *name == "once" { 1 } else { 3 },
            async |name, round| {
                order.push_str(name);
                Ok(round)
            },
        );
        assert_eq!(measured.await?, [vec![0, 1, 2], vec![0, 1, 2], vec![0]]);
        assert_eq!(order, "aboncebaab");
        Ok(())
    }

    #[test]
    fn a_median_is_the_value_in_the_middle() {
        assert_eq!(median(vec![3, 1, 2]), 2);
        assert_eq!(median(vec![7.5]).to_string(), "7.5");
        assert_eq!(median(vec![0.3, -2.0, 0.1, 9.0, 0.2]).to_string(), "0.2");
    }
}
