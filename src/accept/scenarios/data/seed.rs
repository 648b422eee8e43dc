//! Many memories in little time: some stored through the server, then multiplied by their database's administrator.
//!
//! A memory that is made of two others has the text of both, their words where the text has them, and the direction between
//! their vectors, which is about what a model that takes the mean of a text's words gives it. `tmws memory verify` finds
//! nothing wrong with such rows.

use crate::accept::scenario::Broken;

use super::sql::Session;

/// Rows that one statement makes.
const CHUNK: usize = 10_000;

/// Memories that are texts of [`super::probe::text`] and nothing more.
const PLAIN: &str = "m.project = 'alpha' AND m.visibility = 'project' AND m.tags = '{}' AND m.kind = 'note' \
                     AND m.supersedes IS NULL AND m.superseded_by IS NULL AND m.expires IS NULL AND t.length = 13";

/// Makes `wanted` memories of the plain ones among those that project `alpha` has, in the database of `url`. The index of the vectors is
/// dropped and made anew as it was, as one does around a large load.
pub(super) async fn multiply(url: &str, wanted: usize) -> Result<(), Broken> {
    let mut session = Session::open(url).await?;
    let base = session
        .count(&format!(
            "SELECT count(*) FROM tmws.memory m JOIN tmws.memory_text t USING (seq) WHERE {PLAIN}"
        ))
        .await?;
    let base = usize::try_from(base).unwrap_or(0);
    if base < 2 || base * base < wanted {
        return Err(Broken::new("multiplying memories", format!("enough to make {wanted} of"), base));
    }
    let indexes = session
        .rows(
            "SELECT indexname AS name, indexdef AS made FROM pg_catalog.pg_indexes WHERE schemaname = 'tmws' \
             AND indexdef LIKE '% USING hnsw %'",
        )
        .await?;
    let [index] = &indexes[..] else {
        return Err(Broken::new("looking for the index of the vectors", "one", format!("{indexes:?}")));
    };
    let (name, made) =
        (index["name"].as_str().unwrap_or_default(), index["made"].as_str().unwrap_or_default());
    session
        .run(&format!(
            "SET tmws.whole TO 'on'; SET synchronous_commit TO off; SET maintenance_work_mem TO '512MB'; \
             DROP INDEX tmws.{name}; \
             CREATE TEMPORARY TABLE base AS SELECT m.*, t.words, t.length, v.model, v.embedding, \
             row_number() OVER (ORDER BY m.seq) - 1 AS nth FROM tmws.memory m JOIN tmws.memory_text t USING (seq) \
             JOIN tmws.memory_vector v USING (seq) WHERE {PLAIN}; \
             CREATE UNIQUE INDEX ON base (nth); ANALYZE base"
        ))
        .await?;
    let have = usize::try_from(session.count("SELECT count(*) FROM base").await?).unwrap_or(0);
    if have < base {
        return Err(Broken::new(
            "multiplying memories",
            "each has its words and its vector",
            format!("{have} of {base}"),
        ));
    }
    let mut done = base;
    while done < wanted {
        let rows = CHUNK.min(wanted - done);
        session.run(&chunk(done - base, rows, have)).await?;
        done += rows;
    }
    session.run("DROP TABLE base").await?;
    // Building with more than one process needs shared memory, which not every container has enough of.
    if session.run(&format!("SET max_parallel_maintenance_workers TO 1; {made}")).await.is_err() {
        session.run(&format!("SET max_parallel_maintenance_workers TO 0; {made}")).await?;
    }
    session.run("VACUUM ANALYZE tmws.memory").await?;
    session.run("VACUUM ANALYZE tmws.memory_text").await?;
    session.run("VACUUM ANALYZE tmws.memory_vector").await?;
    session.close().await;
    Ok(())
}

/// The statement that makes `rows` memories: pair `first` and those after it, of `base` times `base` less one.
fn chunk(first: usize, rows: usize, base: usize) -> String {
    let last = first + rows;
    format!(
        "WITH pairs AS MATERIALIZED (\
           SELECT p, a.realm, 'm_0' || upper(left(md5(a.id || ' ' || b.id || ' ' || p), 25)) AS id, a.reader, a.audience, \
             a.project, a.visibility, a.principal, a.agent, a.kind, a.trust, a.created + p AS created, \
             a.content || ' and '::bytea || b.content AS content, a.length + b.length + 1 AS length, a.model, \
             ((a.words || b.words)::text || ' ''and'':' || (a.length + 2) || 'B')::tsvector AS words, \
             l2_normalize(a.embedding + b.embedding) AS embedding \
           FROM generate_series({first}, {last} - 1) p \
           JOIN base a ON a.nth = p % {base} JOIN base b ON b.nth = (p % {base} + 1 + p / {base}) % {base}), \
         stored AS (INSERT INTO tmws.memory (realm, id, reader, audience, project, visibility, principal, agent, \
             importance, kind, trust, created, updated, content_hash, tags, content) \
           SELECT realm, id, reader, audience, project, visibility, principal, agent, 0.5, kind, trust, created, created, \
             sha256(content), '{{}}', content FROM pairs ORDER BY p RETURNING seq, realm, id, reader), \
         worded AS (INSERT INTO tmws.memory_text (seq, reader, words, length) \
           SELECT s.seq, s.reader, p.words, p.length FROM stored s JOIN pairs p USING (realm, id)) \
         INSERT INTO tmws.memory_vector (seq, model, reader, embedding) \
           SELECT s.seq, p.model, s.reader, p.embedding FROM stored s JOIN pairs p USING (realm, id)"
    )
}
