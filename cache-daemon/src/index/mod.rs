//! Where each extent is: lock-free for readers.
