//! Writes the seeds of a fuzz target: what the vectors try, in the target's own form. The vectors are the corpus that is kept.
//!
//! usage: fuzz_seeds TARGET FOLDER

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a tool of `make fuzz`"
)]

use std::collections::BTreeSet;
use std::path::Path;

#[path = "../fuzz/src/bases.rs"]
mod bases;
#[path = "../tests/vectors/mod.rs"]
mod vectors;

use bases::BASES;
use vectors::Placed;

/// When everything happens, as for the targets.
const NOW: u64 = 1_795_456_800;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [target, folder] = &arguments[..] else {
        panic!("usage: fuzz_seeds TARGET FOLDER");
    };
    let seeds = seeds(target);
    assert!(!seeds.is_empty(), "no target `{target}`");
    std::fs::create_dir_all(folder).unwrap();
    for (number, seed) in seeds.iter().enumerate() {
        std::fs::write(Path::new(folder).join(format!("seed-{number:04}")), seed).unwrap();
    }
    println!("{} seeds", seeds.len());
}

fn seeds(target: &str) -> BTreeSet<Vec<u8>> {
    let all = vectors::all();
    let each = |seed: &dyn Fn(&Placed) -> Option<Vec<u8>>| all.iter().filter_map(seed).collect::<BTreeSet<_>>();
    match target {
        "token" => each(&|placed| payload(&placed.recipe.token(NOW))),
        "bundle" => each(&|placed| payload(placed.recipe.case("seed", NOW)["bundle"].as_str()?)),
        "state_list" => each(&|placed| payload(placed.recipe.case("seed", NOW)["state"].as_str()?)),
        "json_rpc" => each(&|placed| Some(placed.recipe.request(NOW).body).filter(|body| !body.is_empty())),
        "path" => each(&|placed| {
            let request = placed.recipe.request(NOW);
            let headers = request.headers.iter().filter(|(name, _)| !["authorization", "host"].contains(&name.as_str()));
            Some(headers.fold(request.path.into_bytes(), |head, (name, value)| {
                [head, format!("\n{name}:{value}").into_bytes()].concat()
            }))
        }),
        "twin" => each(&|placed| {
            let request = placed.recipe.request(NOW);
            let base = BASES.iter().position(|base| *base == origin(&all, placed))?;
            let rest = if request.method == "POST" { request.body } else { request.path.into_bytes() };
            Some([vec![u8::try_from(base).unwrap()], rest].concat())
        }),
        "sse" => [
            r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"pandas"},{"name":"bash"}]}}"#,
            "event: message\nid: 1\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"tools\":[{\"name\":\"bash\"}]}}\n\n",
            ": hello\r\nretry: 100\r\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{}}\r\n\r\n",
            "data: {\"jsonrpc\":\"2.0\",\"id\":1,\ndata:\"result\":{\"tools\":[{\"name\":\"pandas\"}],\"nextCursor\":\"a\"}}\n\n",
            "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32601,\"message\":\"m\"}}\r\rdata:x",
        ]
        .map(|seed| seed.as_bytes().to_vec())
        .into(),
        "scope" => ["read:data.sales_q1_2026", "read:data.{table}", "write:report.draft.{id}", "read:data.{arguments./table}", "a:*"]
            // Two texts: the second is what follows the first, and its length ends the input.
            .map(|scope| [scope.as_bytes(), b"sales", &[5]].concat())
            .into(),
        "agent_file" => ["agent-analyst-7", "agent-writer-2", "service-mcp"]
            .map(|name| std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/mesh/policy/{name}.yaml"))).unwrap())
            .into(),
        _ => BTreeSet::new(),
    }
}

/// The base that a vector goes back to.
fn origin<'a>(all: &'a [Placed], placed: &'a Placed) -> &'a str {
    match (&placed.vector.base, &placed.vector.twin) {
        (Some(base), _) => base,
        (None, Some(twin)) => origin(all, all.iter().find(|placed| placed.vector.id == *twin).unwrap()),
        (None, None) => "",
    }
}

/// What a compact JWS says.
fn payload(compact: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    let payload = compact.split('.').nth(1)?;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).ok()
}
