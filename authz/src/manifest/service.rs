//! The rules of one service's file.
