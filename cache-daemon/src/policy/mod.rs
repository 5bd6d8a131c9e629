//! Policy: what to keep and what to fetch, decided from history and limits, returned as commands.
//!
//! Pure code. It calls nothing and knows no clock, so that it can be replayed and simulated without a kernel, a
//! disk or a network; the daemon and `cachectl simulate` run the same code.

pub mod eviction;
pub mod pushing;
pub mod readahead;
pub mod sets;
