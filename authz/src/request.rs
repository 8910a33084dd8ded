//! A request and its facts.
