//! Vectors, which say what an item means.

use crate::{Error, Result, validate};

/// The longest vector that PostgreSQL has an index for, at half precision.
const MAX_DIMENSIONS: usize = 4_000;

/// The vector of one of an item's texts.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldVector {
    /// The text's place in the value; one item has one vector for each.
    pub field: String,
    /// The vector.
    pub vector: Vec<f32>,
}

impl FieldVector {
    pub(super) fn validate(&self) -> Result<()> {
        validate::text("field", &self.field)?;
        validate(&self.vector)
    }
}

/// A vector to which those of items are compared.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorQuery {
    /// The vector.
    pub vector: Vec<f32>,
    /// By what they are compared.
    pub distance: Distance,
}

impl VectorQuery {
    pub(super) fn validate(&self) -> Result<()> {
        validate(&self.vector)
    }

    /// How like it a vector is: the higher, the more. `None` for one of another length, which another
    /// model made.
    pub fn score(&self, vector: &[f32]) -> Option<f64> {
        if vector.len() != self.vector.len() {
            return None;
        }
        let sum = |of: fn(f64, f64) -> f64| -> f64 {
            let pairs = self.vector.iter().zip(vector);
            pairs.map(|(a, b)| of(f64::from(*a), f64::from(*b))).sum()
        };
        Some(match self.distance {
            Distance::Cosine => {
                let lengths = (sum(|a, _| a * a) * sum(|_, b| b * b)).sqrt();
                // What has no direction is like nothing.
                if lengths == 0.0 {
                    0.0
                } else {
                    sum(|a, b| a * b) / lengths
                }
            }
            Distance::Euclidean => -sum(|a, b| (a - b).powi(2)).sqrt(),
            Distance::InnerProduct => sum(|a, b| a * b),
        })
    }
}

/// By what two vectors are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Distance {
    /// Their angle. The score is its cosine.
    #[default]
    Cosine,
    /// How far apart they are. The score is that, negative.
    Euclidean,
    /// Their inner product, which is the score.
    InnerProduct,
}

/// How a database keeps vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VectorIndex {
    /// How many numbers a vector has.
    pub dimensions: usize,
    /// By what they are compared.
    pub distance: Distance,
    /// How exactly numbers are kept.
    pub precision: Precision,
    /// Which index they have.
    pub kind: VectorKind,
}

impl VectorIndex {
    /// Vectors of so many numbers, compared by their angle: half precision, and an index.
    pub fn new(dimensions: usize) -> Self {
        Self {
            dimensions,
            distance: Distance::default(),
            precision: Precision::Half,
            kind: VectorKind::default(),
        }
    }

    /// Refuses what no back end keeps.
    pub fn validate(&self) -> Result<()> {
        let most = match (self.precision, self.kind) {
            (Precision::Single, VectorKind::Hnsw { .. }) => MAX_DIMENSIONS / 2,
            _ => MAX_DIMENSIONS,
        };
        has_dimensions("dims", self.dimensions, most)
    }
}

/// How exactly numbers are kept, on PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 16 bits.
    Half,
    /// 32 bits.
    Single,
}

/// Which index vectors have, on PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorKind {
    /// A graph of neighbours, which finds nearly all of the nearest.
    Hnsw {
        /// How many neighbours a vector has, in each layer.
        m: u16,
        /// Among how many these are looked for.
        ef_construction: u16,
    },
    /// None: all are compared.
    Flat,
}

impl Default for VectorKind {
    /// As pgvector's own.
    fn default() -> Self {
        Self::Hnsw {
            m: 16,
            ef_construction: 64,
        }
    }
}

fn validate(vector: &[f32]) -> Result<()> {
    has_dimensions("vector", vector.len(), MAX_DIMENSIONS)?;
    if vector.iter().all(|number| number.is_finite()) {
        Ok(())
    } else {
        Err(Error::invalid("vector", "must have finite numbers"))
    }
}

fn has_dimensions(field: &'static str, dimensions: usize, most: usize) -> Result<()> {
    if (1..=most).contains(&dimensions) {
        return Ok(());
    }
    let reason = format!("must have 1 to {most} numbers, and has {dimensions}");
    Err(Error::invalid(field, reason))
}
