//! Searches by a text or a vector.
//!
//! PostgreSQL ranks by itself: a row's last columns are whether it was found by the text, and its score.
//! SQLite gives every row that may be found, once for each of its vectors, with NULL and the vector.

use yai_agentkit_core::store::{Distance, Search, VectorQuery};

use super::{read::Reads, vectors};

/// How many neighbours a scan of the index considers at a time; where there are not enough that meet the
/// filter it goes on, to at most [`MOST_SCANNED`].
const CONSIDERED: u64 = 200;

/// What pgvector takes.
const MOST_CONSIDERED: u64 = 1_000;

const MOST_SCANNED: u32 = 200_000;

impl Reads<'_> {
    pub(super) fn ranked(&mut self, place: i32, search: &Search) {
        if !self.is_postgres {
            return self.rankable(place, search);
        }
        if let Some(text) = &search.text {
            self.by_text(place, search, text);
        }
        if let Some(vector) = &search.vector {
            self.by_vector(place, search, vector);
        }
    }

    fn rankable(&mut self, place: i32, search: &Search) {
        self.begin();
        let (columns, place) = (self.columns(), self.query.bind(place));
        let renews = self.query.bind(search.renews);
        let (vector, join) = match (&search.text, &search.vector) {
            (_, None) => ("NULL", ""),
            (None, Some(_)) => ("v.embedding", "JOIN store_vectors v USING (prefix, key) "),
            _ => (
                "v.embedding",
                "LEFT JOIN store_vectors v USING (prefix, key) ",
            ),
        };
        self.query.push(format_args!(
            "SELECT * FROM (
    SELECT {place}, {columns}, {renews} AND s.ttl_minutes IS NOT NULL, NULL, {vector}
    FROM store s {join}WHERE "
        ));
        self.meets(search);
        self.query.push("\n) found");
    }

    /// By any of the words. What is too long for a `tsvector` is found by none.
    fn by_text(&mut self, place: i32, search: &Search, text: &str) {
        self.begin();
        let (columns, place) = (self.columns(), self.query.bind(place));
        let (renews, text) = (self.query.bind(search.renews), self.query.bind(text));
        self.query.push(format_args!(
            r#"SELECT * FROM (
    SELECT {place}, {columns}, {renews} AND s.ttl_minutes IS NOT NULL, true,
        ts_rank(w.words, q.wanted, 1)::float8 AS score
    FROM store s
    CROSS JOIN (SELECT replace(plainto_tsquery('simple', {text})::text, ' & ', ' | ')::tsquery
        AS wanted) q
    CROSS JOIN LATERAL (SELECT CASE WHEN octet_length(s.value::text) <= 500000
        THEN jsonb_to_tsvector('simple', s.value, '["string"]') END AS words) w
    WHERE w.words @@ q.wanted AND "#
        ));
        self.meets(search);
        self.query
            .push("\n    ORDER BY score DESC, s.prefix COLLATE \"C\", s.key COLLATE \"C\"");
        self.depth(search);
        self.query.push("\n) by_text");
    }

    /// The settings of the scan come first, since what is searched needs the row that they are in. Of an
    /// item's vectors that one counts that is nearest; one that is older than its item is of another value.
    fn by_vector(&mut self, place: i32, search: &Search, query: &VectorQuery) {
        self.begin();
        let (columns, place) = (self.columns(), self.query.bind(place));
        let renews = self.query.bind(search.renews);
        let vector = self.query.bind(vectors::text(&query.vector));
        let considered = search.depth().clamp(CONSIDERED, MOST_CONSIDERED);
        let considered = self.query.bind(considered.to_string());
        let (operator, score) = match query.distance {
            Distance::Cosine => ("<=>", "1 - f.distance"),
            Distance::Euclidean => ("<->", "-f.distance"),
            Distance::InnerProduct => ("<#>", "-f.distance"),
        };
        self.query.push(format_args!(
            "SELECT {place}, f.prefix, f.key, f.value, f.created_at, f.updated_at, f.renews, false, {score}
FROM (
    SELECT {vector}::vector AS wanted, set_config('hnsw.iterative_scan', 'relaxed_order', true),
        set_config('hnsw.ef_search', {considered}, true),
        set_config('hnsw.max_scan_tuples', '{MOST_SCANNED}', true)
    OFFSET 0
) q
CROSS JOIN LATERAL (
    SELECT {columns}, {renews} AND s.ttl_minutes IS NOT NULL, v.embedding {operator} q.wanted
    FROM store_vectors v JOIN store s ON s.prefix = v.prefix AND s.key = v.key
    WHERE v.updated_at >= s.updated_at AND NOT EXISTS (
            SELECT FROM store_vectors o
            WHERE o.prefix = v.prefix AND o.key = v.key AND o.field_name <> v.field_name
                AND o.updated_at >= s.updated_at AND (o.embedding {operator} q.wanted, o.field_name)
                    < (v.embedding {operator} q.wanted, v.field_name)
        )
        AND "
        ));
        self.meets(search);
        self.query.push(format_args!(
            "\n    ORDER BY v.embedding {operator} q.wanted"
        ));
        self.depth(search);
        self.query
            .push("\n) f (prefix, key, value, created_at, updated_at, renews, distance)");
    }

    fn depth(&mut self, search: &Search) {
        let depth = i64::try_from(search.depth()).unwrap_or(i64::MAX);
        let depth = self.query.bind(depth);
        self.query.push(format_args!("\n    LIMIT {depth}"));
    }
}
