//! The only meeting point of data and control: reads, single flight, fills.
