//! End-to-end tests of Dure.
