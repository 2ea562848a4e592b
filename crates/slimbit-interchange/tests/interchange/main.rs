//! Foreign checkpoints and the network file, whole and damaged.

mod checkpoints;
mod corpus;
mod damage;
mod names;
mod network;
mod real_weights;
mod torch_file;
mod trainers;
mod zoo;
