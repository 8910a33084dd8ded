#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

const STATES: [AgentState; 4] = [
    AgentState::Active,
    AgentState::Paused,
    AgentState::Suspended,
    AgentState::Killed,
];
const ROLES: [Role; 3] = [Role::RiskEngine, Role::Reviewer, Role::Operator];

#[test]
fn a_state_and_a_change_name_one_row() {
    for (index, row) in TABLE.iter().enumerate() {
        let same = |other: &&Transition| (other.from, other.change) == (row.from, row.change);
        assert_eq!(TABLE.iter().position(|other| same(&other)), Some(index), "{row:?}");
        let same_end = TABLE.iter().filter(|other| other.change == row.change);
        assert!(same_end.clone().all(|other| other.to == row.to), "{row:?}");
        assert_ne!(row.from, row.to);
        assert!(!row.by.is_empty());
    }
}

#[test]
fn only_people_give_trust_back() {
    for row in TABLE.iter().filter(|row| row.to == AgentState::Active) {
        assert!(!row.by.contains(&Role::RiskEngine), "{row:?}");
        assert!(!row.change.takes_away());
        // Who was suspended or killed is given nothing back that it had.
        assert_eq!(row.resets_tokens, row.from != AgentState::Paused, "{row:?}");
    }
    for row in TABLE.iter().filter(|row| row.to != AgentState::Active) {
        assert!(row.change.takes_away(), "{row:?}");
        assert_eq!(row.resets_tokens, row.to != AgentState::Paused, "{row:?}");
    }
}

#[test]
fn every_state_can_be_left_and_killed_from() {
    for from in STATES {
        let killed = look_up(from, Change::Kill, &[Role::Operator]).unwrap();
        assert_eq!(killed == Outcome::Already, from == AgentState::Killed);
        let back = TABLE.iter().filter(|row| row.from == from);
        assert!(back.count() > 0, "{from:?}");
    }
}

/// The whole table, as a person reads it: each state and change, and who of engine, reviewer and operator may.
#[test]
fn the_table_is_this() {
    use AgentState::{Active, Killed, Paused, Suspended};
    use Change::{Approve, Kill, Pause, Resume, Suspend};
    for (from, change, may) in [
        (Active, Approve, "==="),
        (Active, Pause, "+++"),
        (Active, Resume, "==="),
        (Active, Suspend, "+-+"),
        (Active, Kill, "--+"),
        (Paused, Approve, "-++"),
        (Paused, Pause, "==="),
        (Paused, Resume, "..."),
        (Paused, Suspend, "+++"),
        (Paused, Kill, "--+"),
        (Suspended, Approve, "..."),
        (Suspended, Pause, "..."),
        (Suspended, Resume, "--+"),
        (Suspended, Suspend, "==="),
        (Suspended, Kill, "--+"),
        (Killed, Approve, "..."),
        (Killed, Pause, "..."),
        (Killed, Resume, "--+"),
        (Killed, Suspend, "..."),
        (Killed, Kill, "==="),
    ] {
        let seen: String = ROLES
            .iter()
            .map(|role| match look_up(from, change, &[*role]) {
                Ok(Outcome::Moves(row, by)) => {
                    assert_eq!((row.from, row.change, by), (from, change, *role));
                    '+'
                }
                Ok(Outcome::Already) => '=',
                Err(TransitionError::NotAllowed { .. }) => '-',
                Err(TransitionError::Impossible { .. }) => '.',
            })
            .collect();
        assert_eq!(seen, may, "{from:?} {change:?}");
        assert!(look_up(from, change, &[]).is_err(), "nobody may {change} from {from:?}");
    }
}

#[test]
fn of_several_roles_the_one_that_may_is_named() {
    let both = [Role::Reviewer, Role::Operator];
    let killed = look_up(AgentState::Paused, Change::Kill, &both).unwrap();
    assert!(matches!(killed, Outcome::Moves(_, Role::Operator)), "{killed:?}");
}

#[test]
fn errors_say_who_may() {
    let error = look_up(AgentState::Killed, Change::Resume, &[Role::Reviewer]).unwrap_err();
    assert_eq!(error.to_string(), "only an operator may resume an agent that is killed");
    let error = look_up(AgentState::Paused, Change::Approve, &[Role::RiskEngine]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "only a reviewer or an operator may approve an agent that is paused"
    );
    let error = look_up(AgentState::Killed, Change::Pause, &ROLES).unwrap_err();
    assert_eq!(error.to_string(), "an agent that is killed cannot be paused");
}

#[test]
fn words_name_changes_and_states() {
    for change in Change::ALL {
        assert_eq!(change.as_str().parse(), Ok(change));
    }
    assert!("approved".parse::<Change>().is_err());
    assert_eq!(ROLES.map(Role::as_str), ["risk-engine", "reviewer", "operator"]);
    assert_eq!(ROLES.map(|role| role.to_string()), ROLES.map(Role::as_str));
    assert_eq!(Names(&ROLES).to_string(), "the risk engine, a reviewer or an operator");
    for state in STATES {
        assert_eq!(AgentState::parse(state.as_str()), Some(state));
        assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
    }
    assert_eq!(AgentState::parse("Active"), None);
}

#[test]
fn tokens_of_the_second_of_the_reset_die_too() {
    assert_eq!(not_before(1000), 1001);
    assert_eq!(not_before(u64::MAX), u64::MAX);
}
