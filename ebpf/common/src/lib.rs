//! Types shared by the probes and the daemon: `repr(C)`, fixed widths, explicit padding, sizes asserted.
#![no_std]
