//! Agent files: any bytes are read or refused, and what is read grants nothing that its text does not name.
#![no_main]
#![expect(clippy::unwrap_used, reason = "a broken property ends the run")]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &str| {
    let Some((agents, _)) = authz_fuzz::files::agents(source) else {
        return;
    };
    for agent in agents {
        let spec = serde_json::to_value(&agent.spec).unwrap();
        for field in ["tools", "prompts", "scope", "mayCall", "reaches"] {
            for name in spec[field].as_array().into_iter().flatten() {
                let name = name.as_str().unwrap();
                assert!(!name.contains(['*', '?']), "a wildcard: `{name}`");
                // Escapes of YAML apart, whoever reads the file sees what it grants.
                assert!(
                    source.contains(name) || source.contains(['\\', '\'', '>', '|', '"', '\n']),
                    "`{name}` is not in the file"
                );
            }
        }
    }
});
