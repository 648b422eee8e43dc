//! The contract of stores, on the embedded one.

use std::sync::Arc;

use tmws::store::{LazyStore, SqliteOptions, Store};

use crate::store::{
    contract::{contract, sqlite},
    model,
};

fn lazy() -> std::future::Ready<(tempfile::TempDir, Arc<dyn Store>)> {
    let folder = tempfile::tempdir().unwrap();
    let store = LazyStore::new(SqliteOptions::new(folder.path().join("deep/er/tmws.db")));
    std::future::ready((folder, Arc::new(store)))
}

contract!(on_sqlite, super::sqlite);
contract!(on_a_lazy_store, super::lazy);

#[test]
fn every_scope_sees_exactly_what_the_model_says() {
    model::every_scope_sees_exactly_what_the_model_says(24, sqlite);
}
