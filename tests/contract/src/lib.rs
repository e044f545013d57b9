//! One suite for each door: what every adapter promises is checked by the same code.
