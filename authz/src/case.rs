//! Offline cases.
