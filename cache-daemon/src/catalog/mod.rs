//! The data set as directories: dense inode numbers, names, sizes, ETags.
