//! The vectors in WebAssembly: the same rules compiled for 32 bits, as the filter runs them.
//!
//! Run by `wasm-bindgen-test` under node, on `wasm32-unknown-unknown`.

#![cfg(target_arch = "wasm32")]

use wasm_bindgen_test::wasm_bindgen_test;

mod vectors;

use vectors::Runs;

const NOW: u64 = 1_795_456_800;

#[wasm_bindgen_test]
fn every_vector_is_decided_as_it_says() {
    let mut failures = Vec::new();
    for placed in vectors::all()
        .iter()
        .filter(|placed| placed.vector.runs.contains(&Runs::Wasm))
    {
        let verdict = vectors::decide(&placed.recipe.case(&placed.vector.id, NOW));
        if verdict != placed.vector.expect {
            failures.push(format!("{}: {verdict:?}", placed.vector.id));
        }
    }
    assert!(failures.is_empty(), "{} wrong: {}", failures.len(), failures.join(", "));
}
