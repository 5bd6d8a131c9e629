//! Probes: who reads what, seen by the kernel.
