//! Objectives, schedules, training loops, probes and checkpoints.
#![forbid(unsafe_code)]
