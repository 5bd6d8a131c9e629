//! The probes. Empty on the host: they are compiled for the kernel only.
