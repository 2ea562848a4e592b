//! The .slim file, the integer reference, the plan, the arena and the session.
#![deny(unsafe_code)]
