//! What is stored, held against what was answered for and what was signed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use authz::digest::Digest;
use authz::log::tile;
use authz::log::tree::{Frontier, leaf_hash};
use sqlx::Row as _;
use tests::load::ledger;
use tests::load::mesh::LoadMesh;

use crate::witness::Answered;

/// What was answered to somebody is stored: every acknowledged record under its hash, every token.
pub(crate) async fn check_stored(mesh: &LoadMesh, answered: &Answered) {
    let mut database = ledger::open(&mesh.database()).await.unwrap();
    let rows = sqlx::query("SELECT hash FROM records WHERE source = ? ORDER BY seq").bind(&answered.source);
    let rows = rows.fetch_all(&mut database).await.unwrap();
    assert!(
        rows.len() >= answered.hashes.len(),
        "records that were acknowledged are lost"
    );
    for (row, hash) in rows.iter().zip(&answered.hashes) {
        assert_eq!(row.get::<&[u8], _>(0), hash);
    }
    let rows = sqlx::query("SELECT jti FROM issued")
        .fetch_all(&mut database)
        .await
        .unwrap();
    let issued: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    for (jti, _) in &answered.tokens {
        assert!(issued.contains(jti), "token {jti} was answered, but is lost");
    }
}

/// Every record is a leaf of the tree, once and in its order, and every checkpoint signs a tree that this one continues.
/// Those that were kept `elsewhere` too, by their sizes.
pub(crate) async fn check_tree(mesh: &LoadMesh, elsewhere: &BTreeMap<usize, Digest>) {
    check_tree_in(&mesh.database(), elsewhere).await;
}

/// The same of a database that the harness sees by another path.
pub(crate) async fn check_tree_in(database: &Path, elsewhere: &BTreeMap<usize, Digest>) {
    let mut database = ledger::open(database).await.unwrap();
    // One snapshot: records may still come.
    sqlx::query("BEGIN").execute(&mut database).await.unwrap();
    let rows = sqlx::query("SELECT record FROM records ORDER BY position");
    let rows = rows.fetch_all(&mut database).await.unwrap();
    let leaves: Vec<_> = rows.iter().map(|row| leaf_hash(row.get(0))).collect();
    let mut tree = Frontier::new();
    let mut roots = vec![tree.root()];
    for leaf in &leaves {
        tree.push(*leaf);
        roots.push(tree.root());
    }
    let tiles = sqlx::query("SELECT hashes FROM tiles WHERE level = 0 ORDER BY tile");
    let tiles = tiles.fetch_all(&mut database).await.unwrap();
    let in_tree: Vec<_> = tiles.iter().flat_map(|row| tile::hashes(row.get(0))).collect();
    assert!(in_tree == leaves, "the tree is not of the records");
    let signed = sqlx::query("SELECT size, root FROM checkpoints ORDER BY size");
    let signed = signed.fetch_all(&mut database).await.unwrap();
    assert!(!signed.is_empty());
    for row in signed {
        let size = usize::try_from(row.get::<i64, _>(0)).unwrap();
        assert_eq!(
            roots[size].as_bytes().as_slice(),
            row.get::<&[u8], _>(1),
            "the checkpoint of {size}"
        );
    }
    for (size, root) in elsewhere {
        assert_eq!(roots[*size], *root, "the checkpoint of {size} that was kept elsewhere");
    }
}
