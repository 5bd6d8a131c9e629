//! The block store: extents in segments on local devices.
