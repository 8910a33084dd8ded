//! The rules of one agent's file.
