//! Which PostgreSQL and which Redis a run acts on.

use std::time::Duration;

use super::{Program, Stage};

/// A program says its version within this.
const SAYS_MAX: Duration = Duration::from_secs(10);

impl Stage {
    /// Name and version of the servers beneath, as they or their programs say; what is not there is left out.
    pub async fn versions(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let postgres = match self.postgres.get() {
            Some(server) => server.value("current_setting('server_version')").await.ok().flatten(),
            None => self.said_by("postgres", self.given.postgres_bin.as_deref()).await,
        };
        found.extend(postgres.map(|version| ("PostgreSQL".to_owned(), version)));
        if let Some(server) = self.postgres.get() {
            let vector =
                "(SELECT default_version FROM pg_available_extensions WHERE name = 'vector')".to_owned();
            let vector = server.value(&vector).await.ok().flatten();
            found.extend(vector.map(|version| ("pgvector".to_owned(), version)));
        }
        let redis = match self.redis.get() {
            Some(server) => server.ask::<String>(&["INFO", "server"]).await.ok().and_then(|told| {
                told.lines().find_map(|line| line.strip_prefix("redis_version:")).map(str::to_owned)
            }),
            None => self.said_by("redis-server", self.given.redis_bin.as_deref()).await,
        };
        found.extend(redis.map(|version| ("Redis".to_owned(), version.trim().to_owned())));
        found
    }

    async fn said_by(&self, name: &str, bin: Option<&std::path::Path>) -> Option<String> {
        let folder = self.programs(name, bin).ok()?;
        let mut program = Program::new(&folder.join(name), self.path(), true);
        program.command().arg("--version");
        let (status, said) = program.run(name, SAYS_MAX).await.ok()?;
        let line = said.lines().next()?.trim().to_owned();
        (status.success() && !line.is_empty()).then_some(line)
    }
}
