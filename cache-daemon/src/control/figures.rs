//! The control socket's own figures.

use crate::figures;

figures! {
    /// What clients of the control socket did.
    pub struct ControlFigures("control") {
        requests: Counter, "requests", "Requests of cachectl and of others on the control socket that were answered.";
        refused: Counter, "clients", "Clients of the control socket turned away: too many, another user, not our protocol.";
        clients: Gauge, "clients", "Clients of the control socket being served now.";
    }
}
