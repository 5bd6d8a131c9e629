//! What the control socket is answered: figures, errands, the wish to end.

use std::sync::Arc;
use std::time::Instant;

use fuse_frontend::figures::{Row, RowValue};
use fuse_frontend::session::Mount;
use serde_json::Value as Json;

use super::parts::{AllFigures, Parts};
use crate::cache::Cache;
use crate::config::Config;
use crate::control::{Answers, Pong, Refusal, Request};
use crate::errands::{drop_path, verify};
use crate::signals::{Reason, Shutdown};
use crate::stats::snapshot::{DaemonState, MountState, PlaceState, ProbeState, Snapshot, StoreState};
use crate::stats::{Description, LatencySummary, Value};

/// Answers for a daemon that serves.
pub(super) struct Status {
    since: Instant,
    daemon: DaemonState,
    store: StoreState,
    figures: AllFigures,
    cache: Arc<Cache>,
    mount: Arc<Mount>,
    shutdown: Shutdown,
}
