//! Agent and service files.
