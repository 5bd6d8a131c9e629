//! The inside of a virtual machine of `cargo xtask vm-test`: an init that runs the suites' executables.
//!
//! The guest has nothing but a kernel, our static programs and three NVMe namespaces: no shell, no libraries, no
//! Python. PID 1 (`machine`) only reaps and, at the end, stops the machine; a second process does the work (`run`),
//! so that whatever happens to it there is somebody left to end the machine with a status that tells.
//!
//! What is to be done comes in a plan, what came of it goes out as events: `protocol`, which xtask compiles too.
//! Two serial ports: the first is the kernel's console and shows what the tests print, the second carries events alone,
//! because a console's lines are torn by the kernel's.

pub mod facts;
mod fuse;
pub mod machine;
pub mod namespaces;
pub mod protocol;
pub mod run;
mod suite;
mod system;
