//! The object store that a data set comes from.
