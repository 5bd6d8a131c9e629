//! The control socket: what `cachectl` asks and the daemon answers.
