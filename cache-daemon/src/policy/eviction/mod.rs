//! Which objects stay in a store that cannot hold them all.
