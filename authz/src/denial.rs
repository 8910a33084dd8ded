//! Denials and their codes.
