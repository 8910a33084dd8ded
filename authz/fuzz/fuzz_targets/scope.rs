//! Scopes and their templates: what is made of a request is one scope of the very words that it was made of.
#![no_main]

use authz::scope::{Scope, ScopeTemplate};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str)| {
    let (text, value) = input;
    if let Ok(scope) = Scope::parse(text) {
        assert_eq!(scope.as_str(), text);
        assert!(
            text.bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b':')),
            "{text}"
        );
        assert_eq!(text.matches(':').count(), 1, "{text}");
        assert_eq!(Scope::parse(scope.as_str()), Ok(scope));
    }
    let Ok(template) = ScopeTemplate::parse(text) else {
        return;
    };
    let captures = template.captures().count();
    let Ok(scope) = template.render(|_| Some(value)) else {
        return;
    };
    assert_eq!(
        Scope::parse(scope.as_str()).as_ref(),
        Ok(&scope),
        "a scope that is none"
    );
    // A value is one segment: it adds none, and changes nothing beside itself.
    let fixed = text.matches(['.', ':']).count() - braced(text);
    assert_eq!(
        scope.as_str().matches(['.', ':']).count(),
        fixed,
        "{text} of {value} is {}",
        scope.as_str()
    );
    assert!(captures == 0 || scope.as_str().contains(value));
    assert!(template.could_produce(&scope, |_, _| true));
});

/// Dots and colons within braces.
fn braced(text: &str) -> usize {
    text.split('{')
        .skip(1)
        .filter_map(|rest| rest.split('}').next())
        .map(|name| name.matches(['.', ':']).count())
        .sum()
}
