#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use super::*;

#[test]
fn scopes_are_exact_words() {
    let cases = [
        ("read:data.sales_q1_2026", Ok(())),
        ("write:report.draft.2026q1", Ok(())),
        ("call:agent.writer-2", Ok(())),
        ("r2_-:a", Ok(())),
        ("read:data.*", Err(ScopeError::Wildcard)),
        ("*", Err(ScopeError::Wildcard)),
        ("read:data.sales?", Err(ScopeError::Wildcard)),
        ("read", Err(ScopeError::Malformed)),
        ("read:", Err(ScopeError::Malformed)),
        (":data", Err(ScopeError::Malformed)),
        ("2read:data", Err(ScopeError::Malformed)),
        ("-read:data", Err(ScopeError::Malformed)),
        ("Read:data", Err(ScopeError::Malformed)),
        ("read:Data", Err(ScopeError::Malformed)),
        ("read:data..x", Err(ScopeError::Malformed)),
        ("read:.data", Err(ScopeError::Malformed)),
        ("read:data.", Err(ScopeError::Malformed)),
        ("read:data:x", Err(ScopeError::Malformed)),
        ("read:data x", Err(ScopeError::Malformed)),
        ("read:data%2ex", Err(ScopeError::Malformed)),
        ("read:dаta", Err(ScopeError::Malformed)),
        ("", Err(ScopeError::Malformed)),
    ];
    for (text, expected) in cases {
        assert_eq!(Scope::parse(text).map(drop), expected, "{text}");
    }
    let longest = format!("r:{}", "a".repeat(MAX_SCOPE_BYTES - 2));
    assert!(Scope::parse(&longest).is_ok());
    assert_eq!(Scope::parse(&(longest + "a")), Err(ScopeError::TooLong));
}

#[test]
fn sets_read_both_forms_and_nothing_else() {
    let expected = ScopeSet::new(vec![Scope::parse("write:b").unwrap(), Scope::parse("read:a").unwrap()]);
    for json in [
        r#"["read:a","write:b"]"#,
        r#"["write:b","read:a","read:a"]"#,
        r#""read:a write:b""#,
    ] {
        assert_eq!(serde_json::from_str::<ScopeSet>(json).unwrap(), expected, "{json}");
    }
    assert!(serde_json::from_str::<ScopeSet>(r#""""#).unwrap().is_empty());
    for json in [
        r#""read:a  write:b""#,
        r#"" read:a""#,
        r#"["read:a write:b"]"#,
        r#"["read:*"]"#,
        "[1]",
        "1",
        "null",
    ] {
        assert!(serde_json::from_str::<ScopeSet>(json).is_err(), "{json}");
    }
    assert_eq!(serde_json::to_string(&expected).unwrap(), r#"["read:a","write:b"]"#);
    assert!(expected.contains(&Scope::parse("read:a").unwrap()));
    assert!(!expected.contains(&Scope::parse("read:a.b").unwrap()));
    let many: Vec<String> = (0..=MAX_SCOPES).map(|index| format!("read:a{index}")).collect();
    assert!(serde_json::from_value::<ScopeSet>(serde_json::json!(many)).is_err());
    assert!(serde_json::from_value::<ScopeSet>(serde_json::json!(many[1..])).is_ok());
}

#[test]
fn templates_capture_whole_segments() {
    let cases = [
        ("read:data.{table}", Ok(())),
        ("read:data.{arguments./table}", Ok(())),
        ("read:data.{arguments./query/table}.all", Ok(())),
        ("read:data", Ok(())),
        ("read:data.x{table}", Err(ScopeError::BadCapture)),
        ("read:data.{table}x", Err(ScopeError::BadCapture)),
        ("read:data.{table", Err(ScopeError::BadCapture)),
        ("read:data.table}", Err(ScopeError::BadCapture)),
        ("read:data.{}", Err(ScopeError::BadCapture)),
        ("read:data.{Table}", Err(ScopeError::BadCapture)),
        ("read:data.{a.b}", Err(ScopeError::BadCapture)),
        ("read:data.{arguments.table}", Err(ScopeError::BadCapture)),
        ("read:data.{arguments./}", Err(ScopeError::BadCapture)),
        ("read:data.{arguments./a//b}", Err(ScopeError::BadCapture)),
        ("read:data.{{table}}", Err(ScopeError::BadCapture)),
        ("{action}:data", Err(ScopeError::Malformed)),
        ("read:data.Table", Err(ScopeError::Malformed)),
        ("read:data..{table}", Err(ScopeError::Malformed)),
        ("read:data.*", Err(ScopeError::Wildcard)),
    ];
    for (text, expected) in cases {
        let parsed = ScopeTemplate::parse(text);
        assert_eq!(parsed.clone().map(drop), expected, "{text}");
        assert!(
            parsed.is_err() || parsed.unwrap().to_string() == text,
            "{text} is written as it was read"
        );
    }
}

#[test]
fn a_captured_value_is_exactly_one_segment() {
    let template = ScopeTemplate::parse("read:data.{table}").unwrap();
    let render = |value: &'static str| template.render(|_| Some(value)).map(|scope| scope.to_string());
    assert_eq!(render("sales_q1").unwrap(), "read:data.sales_q1");
    for value in [
        "sales.q1",
        "Sales",
        "sales%2eq1",
        "",
        "*",
        "sales q1",
        "sales:q1",
        "salés",
        "{table}",
    ] {
        assert_eq!(render(value), Err(ScopeError::NotASegment), "{value}");
    }
    assert_eq!(template.render(|_| None), Err(ScopeError::NotASegment));
    let long: &'static str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    let wide = ScopeTemplate::parse("read:{a}.{b}.{c}.{d}").unwrap();
    assert_eq!(wide.render(|_| Some(long)), Err(ScopeError::TooLong));
}

#[test]
fn a_template_knows_what_it_could_ask_for() {
    let template = ScopeTemplate::parse("read:memory.{namespace}").unwrap();
    let could = |text: &str| template.could_produce(&Scope::parse(text).unwrap(), |_, _| true);
    assert!(could("read:memory.analyst-7"));
    for other in [
        "write:memory.analyst-7",
        "read:data.analyst-7",
        "read:memory",
        "read:memory.a.b",
    ] {
        assert!(!could(other), "{other}");
    }
    let mine = Scope::parse("read:memory.analyst-7").unwrap();
    assert!(!template.could_produce(&mine, |_, value| value == "writer-2"));
}
